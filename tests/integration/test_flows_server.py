"""The server of our own: it starts, its schedules yield runs, and it is gone when whoever started it is gone."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from flows_support import Api, eventually
from pyanamo_flows.server import PrefectServer, PrefectServerFailed, copy_database, empty_database

ORPHAN = """
import os, sys
from pyanamo_flows.server import PrefectServer
server = PrefectServer(sys.argv[1]).start()
print(server.pid, flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.fixture
def server(prefect_server: PrefectServer) -> PrefectServer:
    return prefect_server


def with_its_database(server: PrefectServer, folder: Path) -> Path:
    """A folder for another server that need not make its database anew."""
    folder.mkdir()
    source, copy = sqlite3.connect(server.folder / "prefect.db"), sqlite3.connect(folder / "prefect.db")
    with contextlib.closing(source), contextlib.closing(copy):
        source.backup(copy)
    return folder


def test_the_server_starts_on_this_machine_only_and_its_page_asks_the_right_address(server):
    assert server.healthy()
    assert server.url.startswith("http://127.0.0.1:")
    api = Api(server.api_url)
    assert api.get("/admin/settings")["server"]["analytics_enabled"] is False
    listening = {each.laddr.ip for each in psutil.Process(server.pid).net_connections() if each.status == "LISTEN"}
    assert listening == {"127.0.0.1"}
    page = Api(server.url).get("/ui-settings")
    assert page["api_url"] == server.api_url


def test_a_server_begins_with_a_copy_of_an_empty_database_and_never_with_anothers_key(server, tmp_path, monkeypatch):
    # Given the database of a server that has a key of its own, kept for later ones
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with contextlib.closing(sqlite3.connect(server.folder / "prefect.db")) as used:
        tables = used.execute("SELECT count(*) FROM sqlite_master").fetchone()
    assert copy_database(server.folder / "prefect.db", empty_database(), clear=True)
    assert empty_database().stat().st_mode & 0o077 == 0
    # When another server starts in a folder of its own
    with PrefectServer(tmp_path / "other") as other:
        # Then it has all tables at once, and nothing that is the first one's alone
        assert other.healthy()
        assert list((tmp_path / "cache" / "pyanamo" / "prefect").iterdir()) == [empty_database()]
    with contextlib.closing(sqlite3.connect(tmp_path / "other" / "prefect.db")) as begun:
        assert begun.execute("SELECT count(*) FROM sqlite_master").fetchone() == tables
    with contextlib.closing(sqlite3.connect(empty_database())) as kept:
        assert kept.execute("SELECT count(*) FROM configuration").fetchone() == (0,)


def test_a_kept_database_that_is_damaged_is_not_begun_with(tmp_path):
    (tmp_path / "damaged.db").write_bytes(b"no database at all" * 500)
    assert not copy_database(tmp_path / "damaged.db", tmp_path / "prefect.db")
    assert [each.name for each in tmp_path.iterdir()] == ["damaged.db"]


def test_nothing_of_the_users_prefect_reaches_it(server, monkeypatch):
    monkeypatch.setenv("PREFECT_API_KEY", "secret")
    monkeypatch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", "sqlite:////elsewhere.db")
    environment = server.environment()
    assert "PREFECT_API_KEY" not in environment
    assert environment["PREFECT_HOME"] == str(server.folder)
    assert not any("elsewhere" in value for value in environment.values())


def test_deployments_are_set_up_in_any_folder_and_an_active_schedule_yields_scheduled_runs(server, tmp_path):
    # Given deployments that were set up in some folder
    api = Api(server.api_url)
    own = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    code = "from pyanamo_flows.setup import setup\nfor each in setup('Cohort', cohort=True): print(each.name, each.schedules)"

    def set_up() -> str:
        how = {"env": own | server.client_environment(), "cwd": tmp_path, "text": True, "capture_output": True}
        done = subprocess.run([sys.executable, "-c", code], check=False, **how)
        assert done.returncode == 0, done.stderr
        return done.stdout

    told = set_up().splitlines()
    assert "run/Cohort {'nightly': False}" in told
    # And those of a cohort's other steps, each of its own table
    flows = ("run", "watch", "recover", "report")
    wanted = [f"{flow}/Cohort{step}" for step in ("", "-gather", "-joint") for flow in flows]
    assert sorted(line.partition(" ")[0] for line in told) == sorted(["cohort/Cohort", *wanted])
    assert api.get("/deployments/name/run/Cohort-joint")["parameters"] == {"table": "Cohort-joint"}
    deployment = api.get("/deployments/name/run/Cohort")
    assert deployment["entrypoint"] == "pyanamo_flows.run.run"
    assert deployment["path"] is None
    assert not deployment["pull_steps"]
    assert str(tmp_path) not in str(deployment)
    # When a user switches a schedule on, and somebody sets up again
    (schedule,) = deployment["schedules"]
    api.patch(f"/deployments/{deployment['id']}/schedules/{schedule['id']}", active=True)
    assert "run/Cohort {'nightly': True}" in set_up()
    # Then it is still on, and runs are scheduled
    wanted = {"deployment_id": {"any_": [deployment["id"]]}, "state": {"type": {"any_": ["SCHEDULED"]}}}
    assert eventually(lambda: api.flow_runs(**wanted))


def test_a_server_ends_with_the_process_that_started_it_even_if_that_is_killed(server, tmp_path):
    # Given a process that starts a server and is killed
    command = [sys.executable, "-c", ORPHAN, str(with_its_database(server, tmp_path / "prefect"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -9
    # Then the server is gone soon
    pid = int(done.stdout)
    eventually(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


def test_a_server_that_cannot_start_says_why_and_leaves_nothing(server, tmp_path):
    # Given a port that is taken
    other = PrefectServer(tmp_path / "prefect", port=server.port, environment={"PREFECT_SERVER_API_PORT": "0x"})
    # When a server shall start there with settings that it cannot read
    other.healthy = lambda: False
    with pytest.raises(PrefectServerFailed, match=r"ended with code .*server\.log"):
        other.start()
    assert other.pid is None
