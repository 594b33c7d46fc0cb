"""A workflow file becomes a Workflow, or every fault is told with its field and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyanamo_core.errors import WorkflowInvalid
from pyanamo_core.resources import resource
from pyanamo_core.workflow_file import parse_workflow, read_workflow

LEAST = """\
name: Count
queue: Count_Queue
job_definition: Count_JobDef
buckets:
  results: s3://bucket/prefix
"""


def faults_of(text: str) -> list[str]:
    with pytest.raises(WorkflowInvalid) as caught:
        parse_workflow(text)
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


def test_the_least_that_a_workflow_file_needs_takes_defaults_for_the_rest() -> None:
    # Given a file with the four required fields
    workflow = parse_workflow(LEAST)
    # Then the rest is as the model says
    assert (workflow.table_name, workflow.pilots, workflow.budgets.tries) == ("Count", 1, 3)


def test_parameters_are_taken_as_they_are_written() -> None:
    # Given values that YAML would turn into numbers, truths and dates
    text = LEAST + "parameters:\n  A: 0010\n  B: yes\n  C: 1.50\n  D: 2024-01-31\n  E: ''\n"
    # Then each is the text that stands there
    assert parse_workflow(text).parameters == {"A": "0010", "B": "yes", "C": "1.50", "D": "2024-01-31", "E": ""}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            LEAST.replace("queue:", "queu:"),
            ["line 1: `queue` is missing", "line 2: unknown field `queu`; did you mean `queue`?"],
        ),
        (LEAST + "pilots: many\n", ["line 6: `pilots` must be a whole number, not 'many'"]),
        (LEAST + "pilots: 0\n", ["line 6: `pilots` should be greater than or equal to 1, not 0"]),
        (LEAST + "name: Again\n", ["line 6: `name` stands already in line 1"]),
        (
            LEAST.replace("s3://bucket", "bucket"),
            ["line 5: `buckets.results`: 'bucket/prefix' is no s3://bucket/prefix"],
        ),
        (LEAST + "budgets:\n  tires: 3\n", ["line 7: unknown field `budgets.tires`; did you mean `tries`?"]),
        (
            LEAST + "  inputs:\n    - bucket: abc\n      acces: role\n",
            ["line 8: unknown field `buckets.inputs[1].acces`; did you mean `access`?"],
        ),
        (
            LEAST + "  inputs:\n    - bucket: abc\n      access: public\n",
            ["line 8: `buckets.inputs[1].access` must be 'role', 'anonymous' or 'requester_pays', not 'public'"],
        ),
        (
            LEAST + "timing: {lease_seconds: 10, beat_seconds: 9}\n",
            ["line 6: `timing`: beat_seconds must be at most half of lease_seconds"],
        ),
        (
            LEAST + "parameters:\n  AWS_REGION: x\n",
            [
                "line 7: `parameters.AWS_REGION`: 'AWS_REGION' is reserved: names starting with PREFECT_, PYANAMO_ or AWS_"
                " are set by the pilot"
            ],
        ),
        (LEAST + "parameters:\n  A:\n", ["line 7: `parameters.A` must be text, but is empty"]),
        (LEAST + "references: ref.fa\n", ["line 6: `references` must be a list, not 'ref.fa'"]),
        (LEAST + "verify: check\n", ["line 6: `verify` must be module:function, not 'check'"]),
        ("", ["line 1: the file is empty; `pyanamo init` writes one to start from"]),
        ("- a\n", ["line 1: must have fields: `name: …`"]),
        ("name: &a [*a]\n", ["line 1: `name[1]` holds itself"]),
    ],
)
def test_a_fault_names_its_field_and_its_line(text: str, told: list[str]) -> None:
    # Given a file with a fault, when it is read, then line and field are named
    faults = faults_of(text)
    for one in told:
        assert one in faults


def test_all_faults_are_told_at_once_in_the_order_of_the_file() -> None:
    # Given three faults in three places
    faults = faults_of(LEAST + "pilots: 0\nitems: x\nnests: -1\n")
    # Then all three are told
    assert [fault.split(":")[0] for fault in faults] == ["line 6", "line 7", "line 8"]


def test_what_is_no_yaml_at_all_is_told_with_its_line() -> None:
    # Given a bracket that is never closed
    [fault] = faults_of(LEAST + "references: [a, b\n")
    # Then the fault is where YAML gave up
    assert fault.startswith("line 7: no valid YAML: while parsing a flow sequence")


def test_a_file_that_is_not_utf8_or_missing_is_told_in_words(tmp_path: Path) -> None:
    # Given a file in Latin-1 and one that does not exist
    path = tmp_path / "workflow.yaml"
    path.write_bytes(LEAST.encode() + b"image: caf\xe9\n")
    # Then both are refused with the reason
    with pytest.raises(WorkflowInvalid, match="line 6: is not UTF-8"):
        read_workflow(path)
    with pytest.raises(WorkflowInvalid, match="cannot be read: No such file or directory"):
        read_workflow(tmp_path / "none.yaml")


def test_scripts_beside_the_file_are_found_and_hashed_by_their_content(tmp_path: Path) -> None:
    # Given a folder of scripts beside the workflow file
    path, folder = tmp_path / "workflow.yaml", tmp_path / "scripts"
    path.write_text(LEAST + "scripts: scripts\n")
    folder.mkdir()
    script = folder / "a.sh"
    script.write_text("echo a\n")
    # When it is read, also after touching a file and adding what Python leaves behind
    first = read_workflow(path)
    script.touch()
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "a.pyc").write_bytes(b"x")
    again = read_workflow(path)
    script.write_text("echo b\n")
    changed = read_workflow(path)
    # Then only other content is another hash, and so another revision
    assert first.scripts == str(folder)
    assert first.scripts_sha256 == again.scripts_sha256
    assert first.revision == again.revision
    assert changed.revision != first.revision


def test_a_script_that_can_no_longer_be_run_is_another_hash(tmp_path: Path) -> None:
    # Given a script that can be run
    path, script = tmp_path / "workflow.yaml", tmp_path / "scripts" / "a.sh"
    path.write_text(LEAST + "scripts: scripts\n")
    script.parent.mkdir()
    script.write_text("echo a\n")
    script.chmod(0o755)
    before = read_workflow(path).scripts_sha256
    # When that permission goes, then the hash is another one
    script.chmod(0o644)
    assert read_workflow(path).scripts_sha256 != before


def test_scripts_that_are_missing_or_have_another_hash_are_refused_with_the_line(tmp_path: Path) -> None:
    # Given a file that names a folder that is not there
    path = tmp_path / "workflow.yaml"
    path.write_text(LEAST + "scripts: scripts\n")
    with pytest.raises(WorkflowInvalid, match=r"line 6: `scripts`: there is no .*/scripts"):
        read_workflow(path)
    # And one whose archive has another hash than it says
    (tmp_path / "scripts.tar.gz").write_bytes(b"x")
    path.write_text(LEAST + f"scripts: scripts.tar.gz\nscripts_sha256: {'0' * 64}\n")
    with pytest.raises(WorkflowInvalid, match="line 7: `scripts_sha256` is 000"):
        read_workflow(path)


def test_the_template_of_init_is_valid_and_shows_every_field() -> None:
    # Given the commented workflow file that `pyanamo init` writes
    from pyanamo.commands.init import TEMPLATES

    text = (TEMPLATES / "workflow.yaml").read_text()
    workflow = read_workflow(TEMPLATES / "workflow.yaml")
    # Then it is valid, and every field of the model stands in it, if only in a comment
    missing = [name for name in type(workflow).model_fields if f"{name}:" not in text and name != "scripts_sha256"]
    assert missing == []
    assert workflow.name == "Count"


@pytest.mark.parametrize("name", ["haplotype_caller.yaml"])
def test_packaged_workflow_files_are_valid(name: str) -> None:
    # Given a workflow file that comes with PyAnamo
    path = resource("deployments") / name
    # Then it can be read
    assert read_workflow(path).queue
