"""What stands before Prefect is imported: its address, and what goes into a run row for pilots."""

from __future__ import annotations

import subprocess
import sys

from pyanamo_flows import entry


def test_importing_the_flows_package_imports_nothing_of_prefect_and_forbids_its_ephemeral_server():
    code = (
        "import os, sys, pyanamo_flows, pyanamo_flows.pilot, pyanamo_flows.server\n"
        "print('prefect' in sys.modules, os.environ['PREFECT_SERVER_ALLOW_EPHEMERAL_MODE'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "false"]


def test_the_environments_address_wins_over_the_active_profiles(tmp_path):
    # Given a profile with an address
    (tmp_path / "profiles.toml").write_text(
        'active = "mine"\n[profiles.mine]\nPREFECT_API_URL = "http://profile/api"\n'
    )
    # Then it is used where the environment says nothing, and only there
    assert entry.api_url({"PREFECT_HOME": str(tmp_path)}) == "http://profile/api"
    assert entry.api_url({"PREFECT_HOME": str(tmp_path), "PREFECT_API_URL": "http://env/api"}) == "http://env/api"


def test_an_empty_address_in_the_environment_means_no_prefect(tmp_path):
    (tmp_path / "profiles.toml").write_text(
        'active = "mine"\n[profiles.mine]\nPREFECT_API_URL = "http://profile/api"\n'
    )
    assert entry.api_url({"PREFECT_HOME": str(tmp_path), "PREFECT_API_URL": ""}) == ""


def test_a_broken_or_missing_profile_file_means_no_prefect(tmp_path):
    assert entry.api_url({"PREFECT_HOME": str(tmp_path)}) == ""
    (tmp_path / "profiles.toml").write_text("active = [")
    assert entry.api_url({"PREFECT_HOME": str(tmp_path)}) == ""


def test_pilots_of_this_machine_may_use_its_loopback_address():
    url, why = entry.url_for_pilots("http://127.0.0.1:4200/api", "", "http://127.0.0.1:5000")
    assert (url, why) == ("http://127.0.0.1:4200/api", "")


def test_containers_elsewhere_never_get_a_loopback_address():
    for own in ("http://127.0.0.1:4200/api", "http://localhost:4200/api", "http://[::1]:4200/api"):
        url, why = entry.url_for_pilots(own, "", None)
        assert url == ""
        assert "prefect_api_url_for_pilots" in why


def test_the_workflow_files_address_wins_over_our_own():
    url, _ = entry.url_for_pilots("http://127.0.0.1:4200/api", "http://prefect.internal:4200/api", None)
    assert url == "http://prefect.internal:4200/api"


def test_an_address_with_a_password_never_reaches_the_run_row():
    url, why = entry.url_for_pilots("https://me:secret@prefect.example/api", "", None)
    assert url == ""
    assert "secret" not in why


def test_pilots_share_one_home_of_prefect_that_belongs_to_this_user(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    home = entry._own_home()
    assert entry._own_home() == home
    assert home.stat().st_mode & 0o777 == 0o700
    # A link that somebody else may have laid there is not followed
    home.rmdir()
    home.symlink_to(tmp_path)
    assert entry._own_home() != home
