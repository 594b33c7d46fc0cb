"""What a look at the surroundings found, a line each: it is well, it is wrong and how to mend it, or it was not checked.

A check that fails never ends the examination: `Chart.part` turns what AWS answered into a line.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from pyanamo_core.errors import (
    AccessDenied,
    AwsFailed,
    EndpointDown,
    NoCredentials,
    NoRegion,
    PyAnamoError,
    WrongRegion,
)

IAM_PAGE: Final = "docs/iam.md lists what PyAnamo needs; `pyanamo deploy --for-admin` writes the policies"
_UNKNOWN_OPERATION: Final = frozenset(
    {
        "UnknownOperationException",
        "UnknownOperation",
        "NotImplemented",
        "501",
        "InvalidAction",
        "ResponseParserError",  # an emulator's page of HTML
    }
)
_BUSY: Final = ("Throttl", "TooManyRequests", "SlowDown", "RequestLimit", "ProvisionedThroughput", "503")


class State(StrEnum):
    """How it stands with one thing."""

    OK = "ok"
    WARNING = "warning"
    """It works, but not as most would want it."""
    WRONG = "wrong"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True)
class Line:
    """One finding.

    Attributes:
        check: what was looked at, in a word or two: `queue`, `job role` …
        subject: which one of them: a name, an ARN, an address.
        fact: what was seen; of what was not checked, why.
        mend: what to do; "" where nothing is to be done.
        where: `here`, or `container` where a job looked.
    """

    check: str
    subject: str
    state: State
    fact: str
    mend: str = ""
    where: str = "here"


class Unanswered(PyAnamoError):
    """{service} did not answer (see above)."""


@dataclass
class Chart:
    """The lines so far, and which services do not answer: those are asked once.

    Args:
        on_line: told each line as it comes.
    """

    on_line: Callable[[Line], None] = lambda _: None
    where: str = "here"
    lines: list[Line] = field(default_factory=list[Line])
    silent: set[str] = field(default_factory=set[str])

    def ok(self, check: str, subject: str, fact: str) -> None:
        """It is well."""
        self._add(Line(check, subject, State.OK, fact, where=self.where))

    def warn(self, check: str, subject: str, fact: str, mend: str = "") -> None:
        """It works, but somebody may not want it so."""
        self._add(Line(check, subject, State.WARNING, fact, mend, self.where))

    def wrong(self, check: str, subject: str, fact: str, mend: str = "") -> None:
        """It does not work."""
        self._add(Line(check, subject, State.WRONG, fact, mend, self.where))

    def unknown(self, check: str, subject: str, why: str, mend: str = "") -> None:
        """It was not checked."""
        self._add(Line(check, subject, State.NOT_CHECKED, why, mend, self.where))

    def take(self, line: Line) -> None:
        """A line that was found elsewhere."""
        self._add(line)

    def said(self, check: str) -> State | None:
        """The worst state of this check so far; None if it has not been looked at."""
        order = (State.OK, State.NOT_CHECKED, State.WARNING, State.WRONG)
        return max((one.state for one in self.lines if one.check == check), key=order.index, default=None)

    def _add(self, line: Line) -> None:
        self.lines.append(line)
        self.on_line(line)

    @contextmanager
    def part(
        self,
        check: str,
        subject: str,
        *,
        needed: bool = True,
        missing: str = "",
        codes: Mapping[str, str] | None = None,
    ) -> Generator[None]:
        """Turn an error of PyAnamo raised in this block into this check's line.

        Args:
            needed: is a refusal of permission wrong? Else the thing was just not checked: it is not ours to see.
            missing: what is wrong where AWS says that the thing does not exist, after `it does not exist.`
            codes: what to do about errors of AWS with these codes.
        """
        try:
            yield
        except PyAnamoError as error:
            self.told_by(check, subject, error, needed=needed, missing=missing, codes=codes or {})

    def told_by(
        self,
        check: str,
        subject: str,
        error: PyAnamoError,
        *,
        needed: bool = True,
        missing: str = "",
        codes: Mapping[str, str] | None = None,
    ) -> None:
        """The line that an error makes."""
        facts = error.facts
        service, code = str(facts.get("service", "")), str(facts.get("code", ""))
        refused = f"AWS refused {facts.get('operation', 'it')}: {facts.get('reason', error)}"
        if isinstance(error, Unanswered):
            self.unknown(check, subject, str(error))
        elif isinstance(error, EndpointDown):
            self.silent.add(service)
            self.wrong(
                check,
                subject,
                f"{facts.get('endpoint')} cannot be reached ({facts.get('reason')})",
                "Check the network (subnet, proxy, name server), the region's name and AWS_ENDPOINT_URL.",
            )
        elif code in (codes or {}):
            self.wrong(check, subject, refused, (codes or {})[code])
        elif isinstance(error, AccessDenied):
            if needed:
                self.wrong(check, subject, refused, f"Ask for that permission: {IAM_PAGE}.")
            else:
                self.unknown(check, subject, f"{refused}; it is no fault: only this look needs it")
        elif isinstance(error, NoCredentials | NoRegion):
            self.wrong(check, subject, refused if "reason" in facts else str(error), "See credentials and region.")
        elif isinstance(error, WrongRegion):
            self.wrong(check, subject, f"it lies in another region ({facts.get('right')})", "Give that region.")
        elif any(code.startswith(word) for word in _BUSY):
            self.unknown(check, subject, f"AWS is too busy ({code})", "Try again in a minute.")
        elif isinstance(error, AwsFailed) and code in _UNKNOWN_OPERATION:
            self.unknown(check, subject, f"this endpoint does not know {facts.get('operation')}")
        elif missing and error.exit_code == 4:  # NotFound, whatever its class
            self.wrong(check, subject, "it does not exist", missing)
        else:
            self.wrong(check, subject, str(error))
