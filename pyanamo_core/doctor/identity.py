"""Region, endpoint, credentials and clock: without them nothing else can be asked."""

from __future__ import annotations

import re
from typing import Final

from pyanamo_core.aws import explained
from pyanamo_core.clock import MAX_OFFSET_SECONDS, median_offset
from pyanamo_core.doctor.case import Case
from pyanamo_core.errors import EndpointDown, NoCredentials, NoRegion, PyAnamoError

_REGION: Final = re.compile(r"[a-z]{2}(-[a-z]+)+-\d+")
_SKEWED: Final = ("RequestTimeTooSkewed", "Signature expired", "Signature not yet current", "RequestInTheFuture")
SOURCES: Final = {
    "env": "keys of the environment",
    "shared-credentials-file": "the credentials file",
    "config-file": "the configuration file",
    "container-role": "the role of this container",
    "iam-role": "the role of this machine",
    "sso": "a login by single sign-on",
    "assume-role": "an assumed role",
    "explicit": "keys given to this process",
}
TOLERATED_SECONDS: Final = 10.0
"""What a pilot corrects by itself without anybody noticing; more is worth a word."""


def look_at_identity(case: Case) -> bool:
    """Region, endpoint and credentials; False if nothing else can be asked."""
    return _region(case) and _credentials(case)


def _region(case: Case) -> bool:
    chart = case.chart
    try:
        with explained("session", "reading the configuration"):
            case.region = case.clients.region or ""
    except PyAnamoError as error:
        chart.wrong("region", "", str(error))
        return False
    if not case.region:
        chart.wrong("region", "", "none is set", "Give --region, or set AWS_REGION, e.g. us-east-1.")
        return False
    source = f" (from {case.region_source})" if case.region_source else ""
    if not _REGION.fullmatch(case.region):
        chart.wrong("region", case.region, f"that is no region of AWS{source}", "Write it as us-east-1 or eu-west-2.")
        return False
    known = case.clients.regions_of("batch", case.partition)
    if known and case.region not in known:
        chart.warn("region", case.region, f"this SDK does not know it{source}", f"It knows {', '.join(sorted(known))}.")
    else:
        chart.ok("region", case.region, f"a region of AWS{source}")
    return True


def _credentials(case: Case) -> bool:
    chart = case.chart
    try:
        source = case.clients.source_of_credentials
        if not source:
            raise NoCredentials(reason="none are found", service="sts", operation="GetCallerIdentity")
        told = case.ask("sts", "GetCallerIdentity")
    except EndpointDown as error:
        if case.clients.endpoint_url:
            mend = "Is the address right (AWS_ENDPOINT_URL, --endpoint-url)? Unset it to speak to AWS itself."
            chart.wrong("endpoint", case.clients.endpoint_url, f"nobody answers ({error.facts.get('reason')})", mend)
            return False
        chart.told_by("credentials", "", error)
        return True
    except NoRegion as error:
        chart.wrong("region", case.region, str(error))
        return False
    except PyAnamoError as error:
        reason = str(error.facts.get("reason", error))
        if any(word in f"{error.facts.get('code', '')} {reason}" for word in _SKEWED):
            mend = "Set this machine's clock (chrony, ntpd); AWS takes signatures that are at most 5 minutes off."
            chart.wrong("clock", "", f"AWS refuses what this machine signs: {reason}", mend)
        else:
            chart.wrong("credentials", "", f"AWS does not take them ({reason})", _renewal(error))
        return False
    if case.clients.endpoint_url:
        chart.ok("endpoint", case.clients.endpoint_url, "it answers; all that is said here is about this endpoint")
    case.account = str(told.get("Account", ""))
    who = SOURCES.get(source, source)
    chart.ok("credentials", str(told.get("Arn", "")), f"account {case.account}, by {who}")
    return True


def _renewal(error: PyAnamoError) -> str:
    code = str(error.facts.get("code", ""))
    if code.startswith(("ExpiredToken", "RequestExpired", "TokenRefresh", "SSO", "Unauthorized")):
        return "They have run out: log in again (aws sso login, or new temporary keys)."
    if code == "ProfileNotFound":
        return "Correct AWS_PROFILE, or make the profile: aws configure --profile NAME."
    if not code:
        return "Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or log in (aws sso login)."
    return "Check AWS_PROFILE and the keys: aws sts get-caller-identity must answer."


def look_at_clock(case: Case) -> None:
    """This machine's clock beside the times that AWS's answers bore."""
    chart = case.chart
    if not case.heard:
        chart.unknown("clock", "", "no answer bore AWS's time")
        return
    offset = median_offset(case.heard)
    fact = f"{abs(offset):.0f} s {'behind' if offset > 0 else 'ahead of'} AWS's, by {len(case.heard)} answers"
    mend = "Set this machine's clock (chrony, ntpd): leases count by it."
    if abs(offset) > MAX_OFFSET_SECONDS:
        chart.wrong("clock", "", f"{fact}; more than {MAX_OFFSET_SECONDS:.0f} s are refused", mend)
    elif abs(offset) > TOLERATED_SECONDS:
        chart.warn("clock", "", f"{fact}; PyAnamo corrects for it", mend)
    else:
        chart.ok("clock", "", "right within a few seconds" if abs(offset) > 1.5 else "right")
