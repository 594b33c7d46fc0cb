"""The workflow file (YAML): read into a Workflow, with every fault's field and line.

The model is workflow.py. Text is taken as it is written (`0010` stays `0010`, `yes` stays `yes`): parameters become
variables of the environment, and a hash may be all digits. Relative paths of `scripts` are relative to the file's folder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, cast, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from pyanamo_core.errors import WorkflowInvalid
from pyanamo_core.scripts import ARCHIVES, hash_scripts
from pyanamo_core.workflow import Workflow

Where = tuple[str | int, ...]
"""Path of a value in the file: names of fields and places in lists (0-based)."""

_WORDS: Final = {
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "string_type": "must be text",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "dict_type": "must have fields",
    "model_type": "must have fields",
    "model_attributes_type": "must have fields",
}
_FORMS: Final[dict[Where, str]] = {
    ("name",): "3 to 128 letters, digits, '_', '-' or '.'",
    ("table",): "3 to 255 letters, digits, '_', '-' or '.'",
    ("verify",): "module:function",
    ("scripts_sha256",): "64 hex digits",
    ("references", "sha256"): "64 hex digits",
}


def read_workflow(path: str | Path) -> Workflow:
    """Read and check a workflow file.

    `scripts_sha256` is filled in for a folder or archive on this machine, and `scripts` made absolute.

    Raises:
        WorkflowInvalid: every fault that was found, each with its field and line.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise _invalid(path, [(0, f"cannot be read: {error.strerror}")]) from error
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise _invalid(path, [(line, "is not UTF-8")]) from error
    workflow = parse_workflow(text, path=path)
    return with_scripts(workflow, path)


def parse_workflow(text: str, *, path: Path = Path("workflow.yaml")) -> Workflow:
    """A Workflow from the text of a workflow file; `path` is only named in faults.

    Raises:
        WorkflowInvalid: as `read_workflow`.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = " ".join(part for part in (error.context, error.problem) if part)
        raise _invalid(path, [(mark.line + 1 if mark else 0, f"no valid YAML: {what}")]) from error
    except yaml.YAMLError as error:
        raise _invalid(path, [(0, f"no valid YAML: {error}")]) from error
    if node is None:
        raise _invalid(path, [(1, "the file is empty; `pyanamo init` writes one to start from")])
    built = _Builder()
    told = built.build(node, ())
    faults = built.faults
    if not isinstance(told, dict):
        raise _invalid(path, [(1, "must have fields: `name: …`"), *faults])
    workflow: Workflow | None = None
    try:
        workflow = Workflow.model_validate(told)
    except ValidationError as error:
        faults += [_fault(one, built, cast("dict[str, Any]", told)) for one in error.errors()]
    if faults or workflow is None:
        raise _invalid(path, faults)
    return workflow


def with_scripts(workflow: Workflow, path: Path) -> Workflow:
    """The workflow with the absolute path and the SHA-256 of scripts that lie on this machine.

    Raises:
        WorkflowInvalid: there is no such folder or archive, or a sha256 that is given is another.
    """
    if not workflow.scripts or "://" in workflow.scripts:
        return workflow
    line = _line_of(path, "scripts")
    place = (path.parent / Path(workflow.scripts).expanduser()).resolve()
    if place.is_file() and not place.name.endswith(ARCHIVES):
        raise _invalid(path, [(line, f"`scripts`: {place} is neither a folder nor {', '.join(ARCHIVES)}")])
    if not place.exists():
        raise _invalid(path, [(line, f"`scripts`: there is no {place}")])
    found = hash_scripts(place)
    if workflow.scripts_sha256 and workflow.scripts_sha256 != found:
        fault = f"`scripts_sha256` is {workflow.scripts_sha256}, but {place} has {found}; remove the line or mend it"
        raise _invalid(path, [(_line_of(path, "scripts_sha256"), fault)])
    return workflow.model_copy(update={"scripts": str(place), "scripts_sha256": found})


# ---------------------------------------------------------------------------------------------------- inside


def _invalid(path: Path, faults: list[tuple[int, str]]) -> WorkflowInvalid:
    told = "\n".join(f"  line {line}: {text}" if line else f"  {text}" for line, text in sorted(faults))
    return WorkflowInvalid(path=path, count=len(faults), faults=told)


class _Builder:
    """Turns YAML nodes into plain values, remembering where each stands."""

    def __init__(self) -> None:
        self.faults: list[tuple[int, str]] = []
        self.lines: dict[Where, int] = {}
        self._scalars = yaml.constructor.SafeConstructor()
        self._open: list[yaml.Node] = []

    def build(self, node: yaml.Node, where: Where) -> Any:
        line = int(node.start_mark.line) + 1
        self.lines.setdefault(where, line)
        if any(node is outer for outer in self._open):
            self.faults.append((line, f"{_name(where)} holds itself"))
            return None
        self._open.append(node)
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, where)
            if isinstance(node, yaml.SequenceNode):
                inner = cast("list[yaml.Node]", node.value)
                return tuple(self.build(one, (*where, place)) for place, one in enumerate(inner))
            return self._scalar(node, where, line)
        finally:
            self._open.pop()

    def _mapping(self, node: yaml.MappingNode, where: Where) -> dict[str, Any]:
        built: dict[str, Any] = {}
        pairs = cast("list[tuple[yaml.Node, yaml.Node]]", node.value)
        for key, value in pairs:
            line = int(key.start_mark.line) + 1
            if not isinstance(key, yaml.ScalarNode):
                self.faults.append((line, f"{_name(where)} has a field without a name"))
                continue
            name = str(key.value)
            inner = (*where, name)
            if name in built:
                self.faults.append((line, f"{_name(inner)} stands already in line {self.lines[inner]}"))
                continue
            self.lines[inner] = line
            built[name] = self.build(value, inner)
        return built

    def _scalar(self, node: yaml.Node, where: Where, line: int) -> Any:
        if _takes_text(where) and node.tag != "tag:yaml.org,2002:null":
            return str(node.value)
        try:
            value: Any = self._scalars.construct_object(node)  # pyright: ignore[reportUnknownMemberType]
        except (yaml.YAMLError, ValueError) as error:
            self.faults.append((line, f"{_name(where)}: {str(error).splitlines()[0]}"))
            return None
        # A date or a time is text to a workflow.
        return value if value is None or isinstance(value, str | int | float | bool) else str(node.value)


def _name(where: Where) -> str:
    """`budgets.tries`, `references[2].uri` (counted from 1), in backquotes."""
    told = ""
    for part in where:
        told += f"[{part + 1}]" if isinstance(part, int) else f".{part}" if told else part
    return f"`{told}`" if told else "the file"


def _fault(error: Any, built: _Builder, told: Mapping[str, Any]) -> tuple[int, str]:
    """One of pydantic's errors as a line and words."""
    kind = str(error["type"])
    where = tuple(part for part in cast("Where", error["loc"]) if part != "[key]")
    known = where
    while known not in built.lines and known:
        known = known[:-1]
    line = built.lines.get(known, 1)
    name = _name(where)
    if kind == "missing":
        return line, f"{name} is missing"
    if kind == "extra_forbidden":
        return line, f"unknown field {name}{_suggest(where)}"
    given: Any = error.get("input")
    is_scalar = isinstance(given, str | int | float | bool)
    shown = f", not {given!r}" if is_scalar else ", but is empty" if given is None else ""
    if kind in _WORDS:
        return line, f"{name} {_WORDS[kind]}{shown}"
    if kind == "literal_error":
        return line, f"{name} must be {error['ctx']['expected']}{shown}"
    if kind == "string_pattern_mismatch":
        form = _FORMS.get(tuple(part for part in where if isinstance(part, str)))
        return line, f"{name} must be {form}{shown}" if form else f"{name} must match {error['ctx']['pattern']}{shown}"
    if kind == "value_error":
        return line, f"{name}: {str(error['msg']).removeprefix('Value error, ')}"
    message = re.sub(r"^Input should", "should", str(error["msg"]))
    message = re.sub(r"^(String|Value) should", "should", message)
    return line, f"{name} {message}{shown}"


def _model_at(where: Where) -> type[BaseModel] | None:
    """The model whose fields stand at a place of the file; None where no model does."""
    model: type[BaseModel] | None = Workflow
    for part in where:
        if model is not None and isinstance(part, str):
            model = _model_of(model.model_fields.get(part))
    return model


def _takes_text(where: Where) -> bool:
    """Is a scalar at this place text, however YAML would read it: a hash of digits only, a version, a parameter?"""
    if len(where) >= 2 and where[-2] == "parameters":
        return True
    model = _model_at(where[:-1])
    field = model.model_fields.get(str(where[-1])) if model is not None and where else None
    return field is not None and field.annotation is str


def _suggest(where: Where) -> str:
    """The field that may have been meant, or those that there are."""
    model = _model_at(where[:-1])
    if model is None:
        return ""
    near = get_close_matches(str(where[-1]), model.model_fields, n=1, cutoff=0.6)
    return f"; did you mean `{near[0]}`?" if near else f"; known are {', '.join(model.model_fields)}"


def _model_of(field: FieldInfo | None) -> type[BaseModel] | None:
    """The model that a field holds, or holds a list of."""
    if field is None:
        return None
    for kind in (field.annotation, *get_args(field.annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _line_of(path: Path, name: str) -> int:
    """The line of a field at the top of the file."""
    for line, text in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if re.match(rf"{re.escape(name)}\s*:", text):
            return line
    return 1
