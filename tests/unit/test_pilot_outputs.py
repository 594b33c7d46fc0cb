"""What a nest claims to have made, and whether it is believed."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pytest

from pyanamo_core.model import Output
from pyanamo_core.pilot.outputs import Unverified, ask_hook, check_output, load_hook, read_result

CONTENT = b"a gVCF"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def told(tmp_path: Path, result: object) -> Path:
    """PYANAMO_RESULT with this in it."""
    path = tmp_path / "result.json"
    path.write_text(result if isinstance(result, str) else json.dumps(result))
    return path


def test_a_script_may_tell_nothing(tmp_path: Path) -> None:
    assert read_result(tmp_path / "none.json") == ({}, (), {})


def test_outputs_and_figures_are_read(tmp_path: Path) -> None:
    path = told(tmp_path, {"outputs": [{"uri": "s3://b/k", "bytes": 6, "sha256": DIGEST}], "figures": {"n": 12}})

    _, outputs, figures = read_result(path)

    assert outputs == (Output(uri="s3://b/k", bytes=6, sha256=DIGEST),)
    assert figures == {"n": 12}


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ("{not json", "no JSON"),
        ("[1]", "no JSON object"),
        ({"outputs": {"uri": "x"}}, "must be a list"),
        ({"outputs": ["s3://b/k"]}, "no output"),
        ({"outputs": [{"bytes": 1}]}, "without uri"),
        ({"outputs": [{"uri": "s3://b/k"}]}, "without its size"),
        ({"outputs": [{"uri": "s3://b/k", "bytes": True}]}, "without its size"),
        ({"outputs": [{"uri": "s3://b/k", "bytes": 1, "sha256": "abc"}]}, "64 hex"),
        ({"figures": [1]}, "figures an object"),
    ],
)
def test_a_result_of_another_shape_is_not_believed(tmp_path: Path, result: object, reason: str) -> None:
    with pytest.raises(Unverified, match=reason):
        read_result(told(tmp_path, result))


def no_s3() -> Any:
    raise AssertionError("no client is needed")


def test_a_file_is_checked_where_it_lies(tmp_path: Path) -> None:
    path = tmp_path / "x.vcf"
    path.write_bytes(CONTENT)

    check_output(Output(uri=str(path), bytes=6, sha256=DIGEST), no_s3)
    check_output(Output(uri=path.as_uri(), bytes=6), no_s3)


@pytest.mark.parametrize(
    ("name", "size", "digest", "reason"),
    [
        ("none", 6, "", "No such file"),
        ("x.vcf", 7, "", "6 bytes, not 7"),
        ("x.vcf", 6, "0" * 64, "SHA-256"),
    ],
)
def test_a_file_that_is_not_as_told_is_not_believed(
    tmp_path: Path, name: str, size: int, digest: str, reason: str
) -> None:
    (tmp_path / "x.vcf").write_bytes(CONTENT)

    with pytest.raises(Unverified, match=reason):
        check_output(Output(uri=str(tmp_path / name), bytes=size, sha256=digest), no_s3)


class S3:
    """One object; `checksum` is what S3 knows of it."""

    def __init__(self, checksum: str = "") -> None:
        self.checksum = checksum
        self.read = 0

    def head_object(self, **_: Any) -> dict[str, Any]:
        return {"ContentLength": len(CONTENT)} | ({"ChecksumSHA256": self.checksum} if self.checksum else {})

    def get_object(self, **_: Any) -> dict[str, Any]:
        self.read += 1
        return {"Body": io.BytesIO(CONTENT)}


def test_an_object_is_believed_by_the_checksum_that_s3_stores() -> None:
    s3 = S3(base64.b64encode(bytes.fromhex(DIGEST)).decode())

    check_output(Output(uri="s3://b/k", bytes=6, sha256=DIGEST), lambda: s3)

    assert s3.read == 0


@pytest.mark.parametrize("stored", ["", "abcd-3"])
def test_an_object_whose_checksum_s3_cannot_tell_is_read_back(stored: str) -> None:
    s3 = S3(stored)

    check_output(Output(uri="s3://b/k", bytes=6, sha256=DIGEST), lambda: s3)
    with pytest.raises(Unverified, match="SHA-256"):
        check_output(Output(uri="s3://b/k", bytes=6, sha256="0" * 64), lambda: s3)

    assert s3.read == 2


def test_other_places_are_not_believed() -> None:
    with pytest.raises(Unverified, match="neither"):
        check_output(Output(uri="ftp://x/y", bytes=1), no_s3)


def test_a_hook_may_lie_beside_the_task_scripts(tmp_path: Path) -> None:
    # Given a module in the folder of the scripts
    (tmp_path / "my_verify_hook.py").write_text(
        "def verify(call, outputs):\n    return None if call['figures'].get('n') else 'no variants at ' + call['value']\n"
    )

    # When it is loaded and asked
    hook = load_hook("my_verify_hook:verify", str(tmp_path))
    assert hook is not None
    ask_hook(hook, {"value": "chr1:1-9"}, {"figures": {"n": 3}})

    # Then what it says counts
    with pytest.raises(Unverified, match="no variants at chr1:1-9"):
        ask_hook(hook, {"value": "chr1:1-9"}, {})


def test_a_hook_that_fails_verifies_nothing() -> None:
    def broken(call: dict[str, Any], outputs: list[dict[str, Any]]) -> str | None:
        raise KeyError("bases")

    with pytest.raises(Unverified, match="KeyError"):
        ask_hook(broken, {}, {})


def test_a_hook_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ImportError):
        load_hook("no_such_module_here:verify")
    with pytest.raises(AttributeError):
        load_hook("json:no_such_function")
    assert load_hook("") is None
