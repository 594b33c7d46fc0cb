"""What a task script finds in its environment, and how its command line is made."""

from __future__ import annotations

import json
import shutil

import pytest

from pyanamo_core.errors import ScriptRefused
from pyanamo_core.model import NestCall
from pyanamo_core.pilot.environment import Setting, allowed, command_line, task_environment
from pyanamo_core.workflow import Buckets, InputBucket, Workflow


def workflow(**more: object) -> Workflow:
    """A workflow with little in it."""
    buckets = Buckets(results="s3://results/prefix", inputs=(InputBucket(bucket="1000genomes", access="anonymous"),))
    return Workflow.model_validate({"name": "Seq", "queue": "q", "job_definition": "j", "buckets": buckets, **more})


def call(script: str = "seq", value: str = "8", **more: object) -> NestCall:
    """A nest's call."""
    told = {"item_id": "a/b:c", "task_id": "T", "index": 7, "fence": 3, "epoch": 0}
    return NestCall.model_validate({**told, "script": script, "value": value, **more})


def environment(host: dict[str, str] | None = None, the_call: NestCall | None = None, **more: object) -> dict[str, str]:
    """The environment of a nest on a host."""
    setting = Setting(
        workflow=workflow(**more),
        table="Seq",
        run_id="r1",
        results="s3://results/prefix",
        pipeline="/pipeline",
        references={"ref": "/staged/ref.fa"},
        host=host if host is not None else {"PATH": "/usr/bin:/bin"},
        memory_mb=512,
        cpus=2,
    )
    return task_environment(setting, the_call or call(), work="/w", temporary="/t", result="/r.json")


def test_the_packaged_scripts_are_found_after_the_workflows_own() -> None:
    # Given a workflow whose scripts are a folder of interval lists and nothing else
    path = environment()["PATH"].split(":")
    # Then its folder comes first, and the packaged HaplotypeCaller-1KG.sh is found behind it
    assert path[:3] == ["/usr/bin", "/bin", "/pipeline"]
    assert shutil.which("HaplotypeCaller-1KG.sh", path=":".join(path)) is not None


def test_prefects_variables_and_strangers_are_not_passed_on() -> None:
    # Given a host with Prefect's key, a token of the user's and what a task needs
    host = {
        "PREFECT_API_KEY": "secret",
        "GITHUB_TOKEN": "secret",
        "PYANAMO_RUN": "another",
        "PATH": "/bin",
        "LC_ALL": "C.UTF-8",
        "AWS_REGION": "us-east-1",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2/credentials/x",
        "SSL_CERT_FILE": "/ca.pem",
    }

    # Then only that goes on
    assert set(allowed(host)) == {
        "PATH",
        "LC_ALL",
        "AWS_REGION",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "SSL_CERT_FILE",
    }


def test_static_keys_are_passed_on_only_where_there_are_no_container_credentials() -> None:
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}

    assert allowed(keys) == keys
    assert "AWS_SECRET_ACCESS_KEY" not in allowed({**keys, "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://x"})


def test_the_contract_is_complete() -> None:
    # Given a workflow with a parameter and a reference
    told = environment(parameters={"PADDING": "1000"})

    # Then every variable of docs/pilot.md is there
    assert told["PYANAMO_TABLE"] == "Seq"
    assert told["PYANAMO_RUN"] == "r1"
    assert told["PYANAMO_ITEM"] == "a/b:c"
    assert told["PYANAMO_TASK"] == "T"
    assert told["PYANAMO_NEST"] == "7"
    assert told["PYANAMO_ATTEMPT"] == "3"
    assert told["PYANAMO_WORK"] == "/w"
    assert told["PYANAMO_CPUS"] == "2"
    assert told["PYANAMO_MEMORY_MB"] == "512"
    assert told["PYANAMO_RESULT"] == "/r.json"
    assert told["PIPELINE"] == "/pipeline"
    assert told["S3_BUCKET"] == "results"
    assert told["ref"] == "/staged/ref.fa"
    assert told["PADDING"] == "1000"
    assert told["TMPDIR"] == "/t"
    assert json.loads(told["PYANAMO_INPUT_BUCKETS"])[0]["access"] == "anonymous"


def test_the_output_prefix_is_keyed_by_the_fence_and_has_no_special_characters() -> None:
    assert environment()["PYANAMO_OUTPUT"] == "s3://results/prefix/Seq/work/a%2Fb%3Ac/00007/3/"


def test_the_contract_wins_over_the_host() -> None:
    # Given a host whose environment already has a variable of the contract
    assert environment(host={"PATH": "/bin", "TMPDIR": "/elsewhere", "PIPELINE": "/old"})["PIPELINE"] == "/pipeline"


def test_the_nests_value_is_the_last_argument() -> None:
    assert command_line(call("seq -s ,", "8"), environment()) == ("seq", "-s", ",", "8")


def test_a_value_with_blanks_stays_one_argument() -> None:
    assert command_line(call("echo", "chr1 1 $HOME;"), environment()) == ("echo", "chr1 1 $HOME;")


def test_a_nest_without_value_runs_the_script_as_it_is() -> None:
    assert command_line(call("seq 3", ""), environment()) == ("seq", "3")


def test_variables_are_replaced_from_the_tasks_environment() -> None:
    script = "bash ${PIPELINE}/call.sh --ref ${ref}"

    assert command_line(call(script, "x"), environment()) == (
        "bash",
        "/pipeline/call.sh",
        "--ref",
        "/staged/ref.fa",
        "x",
    )


def test_quotes_group_as_in_a_shell() -> None:
    assert command_line(call("bash -c 'echo $1; exit 3' _", "8"), environment()) == (
        "bash",
        "-c",
        "echo $1; exit 3",
        "_",
        "8",
    )


def test_a_shells_own_variables_are_left_to_it() -> None:
    script = "bash -c 'for i in 1 2; do echo ${i} ${ref}; done'"

    assert command_line(call(script, ""), environment())[2] == "for i in 1 2; do echo ${i} /staged/ref.fa; done"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("bash ${PIPELNE}/x.sh", "PIPELNE"),
        ("echo 'open", "quotation"),
        ("", "empty"),
        ("no-such-program-here 1", "no-such-program-here"),
    ],
)
def test_a_script_that_cannot_start_is_refused_with_the_reason(script: str, reason: str) -> None:
    with pytest.raises(ScriptRefused, match=reason):
        command_line(call(script), environment())
