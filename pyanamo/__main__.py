"""`python -m pyanamo` is the command `pyanamo`. Imports nothing that takes time before Ctrl-C has its meaning."""

from __future__ import annotations

import signal


def main() -> None:
    """Entry point of the console script: Ctrl-C while modules are loaded ends the process quietly, as it does a shell's.

    `pyanamo.main` takes it over; a SIGINT that is ignored (nohup, a background job) stays so.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from pyanamo.main import main as command

    command()


if __name__ == "__main__":
    main()
