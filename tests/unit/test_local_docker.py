"""What a job definition's containerProperties become for a Docker engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pyanamo_core.errors import LocalCloudBroken
from pyanamo_core.local.docker import address, connect, host_config
from pyanamo_core.local.jobs import Plan
from pyanamo_core.local.provision import CONTAINED


def plan(**container: Any) -> Plan:
    """A job of half a vCPU and 300 MiB."""
    return Plan(
        name="j",
        region="us-east-1",
        queue_arn="q",
        queue_name="q",
        definition_arn="d",
        definition_name="d",
        image="pyanamo",
        command=(),
        environment={},
        vcpus=0.5,
        memory_mb=300,
        retry={},
        timeout_seconds=0,
        log_group="g",
        log_prefix="p",
        parameters={},
        tags={},
        container=container,
    )


def test_an_engine_that_does_not_answer_is_told_by_its_address(tmp_path: Path) -> None:
    with pytest.raises(LocalCloudBroken, match=f"the Docker engine at unix://{tmp_path}/none.sock"):
        connect(str(tmp_path / "none.sock"))


def test_limits_and_open_files_are_as_on_an_ecs_host(tmp_path: Path) -> None:
    told = host_config(plan(), tmp_path)

    assert told["Memory"] == told["MemorySwap"] == 300 * 2**20
    assert told["CpuShares"] == 512
    assert told["Ulimits"] == [{"Name": "nofile", "Soft": 1024, "Hard": 4096}]
    assert told["ReadonlyRootfs"] is False
    assert told["Privileged"] is False


def test_a_hosts_folder_lies_below_the_clouds_own_and_is_open_to_every_user(tmp_path: Path) -> None:
    told = host_config(plan(**CONTAINED), tmp_path / "hosts" / "i-1")

    folder = tmp_path / "hosts" / "i-1" / "scratch"
    assert told["Binds"] == [f"{folder}:/scratch"]
    assert folder.stat().st_mode & 0o7777 == 0o1777
    assert told["ReadonlyRootfs"] is True


def test_what_the_definition_says_of_files_memory_and_mounts_is_kept(tmp_path: Path) -> None:
    told = host_config(
        plan(
            ulimits=[{"name": "nofile", "softLimit": 10, "hardLimit": 20}],
            linuxParameters={"tmpfs": [{"containerPath": "/quick", "size": 64, "mountOptions": ["exec"]}]},
            volumes=[{"name": "data", "host": {"sourcePath": "/data"}}, {"name": "empty", "host": {}}],
            mountPoints=[
                {"sourceVolume": "data", "containerPath": "/in", "readOnly": True},
                {"sourceVolume": "empty", "containerPath": "/e"},
            ],
        ),
        tmp_path,
    )

    assert told["Ulimits"] == [{"Name": "nofile", "Soft": 10, "Hard": 20}]
    assert told["Tmpfs"] == {"/quick": "size=64m,exec"}
    assert told["Binds"] == [f"{tmp_path}/data:/in:ro"]


@pytest.mark.parametrize(
    ("given", "meant"),
    [("/run/d.sock", "unix:///run/d.sock"), ("unix:///run/d.sock", "unix:///run/d.sock"), ("tcp://h:1", "tcp://h:1")],
)
def test_an_engine_is_named_by_its_socket_or_address(given: str, meant: str) -> None:
    assert address(given) == meant
