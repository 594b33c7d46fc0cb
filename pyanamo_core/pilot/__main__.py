"""`python -m pyanamo_core.pilot`: a pilot without Prefect, told by its environment."""

from __future__ import annotations

import logging
import os
import sys

from pyanamo_core.aws import Clients
from pyanamo_core.errors import PyAnamoError
from pyanamo_core.pilot.console import log_to_stderr
from pyanamo_core.pilot.leaving import refusal_code
from pyanamo_core.pilot.options import PilotOptions
from pyanamo_core.pilot.pilot import Pilot


def main() -> int:
    """Run one pilot; returns its exit code."""
    log_to_stderr()
    try:
        pilot = Pilot(PilotOptions.from_environment(), Clients())
        pilot.install_signals()
        pilot.prepare()
        return pilot.work()
    except PyAnamoError as error:
        sys.stderr.write(f"{error}\n")
        return refusal_code(error, error.exit_code)


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    # Threads that hang (an observer, a slow upload) must not keep the container.
    os._exit(code)
