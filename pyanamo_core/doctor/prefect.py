"""Prefect's API, asked as a pilot would find it: one GET, no Prefect imported."""

from __future__ import annotations

import urllib.error
import urllib.request
from typing import Final
from urllib.parse import urlsplit

from pyanamo_core.doctor.case import Case

SECONDS: Final = 5.0
LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1", "0.0.0.0"})  # noqa: S104 - compared, never bound


def look_at_prefect(case: Case) -> None:
    """The address of this process, and that which the workflow file has for pilots."""
    for_pilots = case.workflow.prefect_api_url_for_pilots if case.workflow else ""
    own = case.prefect_api_url
    if not (own or for_pilots):
        case.chart.ok("Prefect API", "", "no address is set: runs do without Prefect")
        return
    for url in dict.fromkeys(filter(None, (own, for_pilots))):
        _ask(case, url)
    reached = for_pilots or own
    loopback = urlsplit(reached).hostname in LOOPBACK
    if loopback and urlsplit(case.clients.endpoint_url or "").hostname not in LOOPBACK:
        mend = "Set `prefect_api_url_for_pilots` in the workflow file to an address that containers can reach."
        case.chart.warn(
            "Prefect API", without_password(reached), "it means this machine: pilots elsewhere do without Prefect", mend
        )


def without_password(url: str) -> str:
    """An address as it may be shown."""
    parts = urlsplit(url)
    return f"{parts.scheme}://…@{parts.hostname}{parts.path}" if parts.username or parts.password else url


def _ask(case: Case, url: str) -> None:
    chart, check = case.chart, "Prefect API"
    address = f"{url.rstrip('/')}/health"
    parts = urlsplit(url)
    if parts.username or parts.password:
        mend = "Take them out of the address; a key goes into PREFECT_API_KEY (on AWS: a secret of the stack)."
        chart.wrong(check, without_password(url), "the address holds a user or password", mend)
        return
    if parts.scheme not in ("http", "https"):
        chart.wrong(check, url, "it is no http(s) address", "Write it as http://host:4200/api.")
        return
    key = case.environ.get("PREFECT_API_KEY", "")
    request = urllib.request.Request(address, headers={"Authorization": f"Bearer {key}"} if key else {})  # noqa: S310 - http(s) only, see above
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:  # noqa: S310
            chart.ok(check, url, f"it answers ({answer.status})")
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            said = "refuses the key" if key else "wants a key"
            chart.wrong(
                check,
                url,
                f"it {said} ({error.code})",
                "Set PREFECT_API_KEY; on AWS: pyanamo deploy --set PrefectApiKeySecret=ARN.",
            )
        elif error.code == 404:
            chart.wrong(check, url, "what answers there is no API of Prefect (404)", "The address ends with /api.")
        else:
            chart.wrong(check, url, f"it answers with {error.code} {error.reason}", "See the server's log.")
    except OSError as error:
        reason = getattr(error, "reason", error)
        mend = "Start it (prefect server start), correct PREFECT_API_URL, or unset it: runs do without Prefect."
        chart.wrong(check, url, f"nobody answers ({reason})", mend)
