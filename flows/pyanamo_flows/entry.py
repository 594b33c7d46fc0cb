"""What must stand before Prefect is imported: it reads its settings once, on import. Nothing here imports it."""

from __future__ import annotations

import os
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

PILOT_SETTINGS: Mapping[str, str] = {
    # Few tries (a busy SQLite answers 503 now and then): an API that is gone must not cost a container's time.
    "PREFECT_CLIENT_MAX_RETRIES": "2",
    "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_LOGGING_COLORS": "false",
    # Else every event that a dead server did not take is printed, 2 KB each. The executor says it once.
    "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",
    # The executor stops at 500 queued events; this is the wall behind it.
    "PREFECT_EVENTS_WORKER_MAX_QUEUE_SIZE": "2000",
    "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
}


def enter() -> None:
    """Refuse the ephemeral server that Prefect else starts when it has no address (19 s, 255 MB)."""
    os.environ.setdefault("PREFECT_SERVER_ALLOW_EPHEMERAL_MODE", "false")


def api_url(environ: Mapping[str, str] | None = None) -> str:
    """The address of Prefect's API that this process would use, or "" without one.

    PREFECT_API_URL, else the active profile's. Prefect itself is not imported for that.
    """
    environ = os.environ if environ is None else environ
    if "PREFECT_API_URL" in environ:
        return environ["PREFECT_API_URL"].strip()
    home = Path(environ.get("PREFECT_HOME") or Path(environ.get("HOME") or Path.home()) / ".prefect")
    profiles = Path(environ.get("PREFECT_PROFILES_PATH") or home / "profiles.toml")
    try:
        told = tomllib.loads(profiles.read_text("utf-8"))
    except (OSError, tomllib.TOMLDecodeError):
        return ""
    name = environ.get("PREFECT_PROFILE") or told.get("active") or ""
    profile = told.get("profiles", {}).get(name, {})
    return str(profile.get("PREFECT_API_URL") or "").strip()


def is_loopback(url: str | None) -> bool:
    """Does this address mean the machine that reads it?"""
    return bool(url) and (urlsplit(url).hostname or "") in LOOPBACK


def url_for_pilots(own: str, wanted: str, endpoint_url: str | None) -> tuple[str, str]:
    """The address of Prefect's API that goes into the run row for pilots, and why if there is none.

    Args:
        own: the address that this process uses.
        wanted: `prefect_api_url_for_pilots` of the workflow file.
        endpoint_url: AWS's endpoint; on a loopback address jobs run on this machine (the local cloud).

    Returns:
        The address and "", or "" and a sentence for the user. A loopback address is only given to jobs of this
        machine, and never one that holds a password.
    """
    url = wanted or own
    if not url:
        return "", "this process has no address of Prefect's API"
    parts = urlsplit(url)
    if parts.password or parts.username:
        return "", "the address of Prefect's API holds a user or password, which must not stand in a run row"
    if is_loopback(url) and not is_loopback(endpoint_url):
        return "", (
            f"{url} is this machine's own address; set prefect_api_url_for_pilots in the workflow file to one that"
            " containers can reach"
        )
    return url, ""


def for_pilot(url: str) -> None:
    """Set what a pilot's Prefect shall be like: that address, one short try, no profile of a user, no results.

    The API key, where one is needed, comes from the container's PREFECT_API_KEY alone (the job definition's secrets).
    """
    enter()
    os.environ["PREFECT_API_URL"] = url
    # A server on this machine shares its processors with the pilots.
    os.environ.setdefault("PREFECT_API_REQUEST_TIMEOUT", "15" if is_loopback(url) else "5")
    for name, value in PILOT_SETTINGS.items():
        os.environ.setdefault(name, value)
    if "PREFECT_HOME" not in os.environ:
        # Not ~/.prefect: its active profile may be another server's, and a container's home is often read-only.
        os.environ["PREFECT_HOME"] = str(_own_home())


def _own_home() -> Path:
    """One folder for all pilots of this user on this machine: each of its own would be left behind by `os._exit`."""
    folder = Path(tempfile.gettempdir()) / f"pyanamo-prefect-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.lstat().st_uid == os.getuid() and not folder.is_symlink():
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="pyanamo-prefect-"))
