"""`python -m pyanamo_core.local up | status | env | down | serve`: the local cloud without the rest of the command."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from pyanamo_core.errors import PyAnamoError
from pyanamo_core.local import cloud


def main(arguments: list[str]) -> int:
    """Do one of the five, print JSON (`env`: shell lines), and return the exit code."""
    if arguments[:1] == ["serve"]:
        from pyanamo_core.local import server

        return server.main(arguments[1:])
    parser = argparse.ArgumentParser(prog="python -m pyanamo_core.local")
    parser.add_argument("what", choices=["up", "status", "env", "down"])
    parser.add_argument("--home", type=Path, default=None)
    parser.add_argument("--ledger", choices=["moto", "dynamodb-local"], default="moto")
    given = parser.parse_args(arguments)
    try:
        if given.what == "env":
            sys.stdout.write(cloud.export_lines(cloud.env(given.home)))
        elif given.what == "down":
            sys.stdout.write(json.dumps({"was_running": cloud.down(given.home)}) + "\n")
        else:
            options = cloud.Options(home=given.home, ledger=given.ledger)
            found = cloud.up(options) if given.what == "up" else cloud.status(given.home)
            told = {} if found is None else asdict(found) | {"token": "…"}
            sys.stdout.write(json.dumps(told, default=str, indent=2) + "\n")
    except PyAnamoError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
