"""`python -m pyanamo` is the command `pyanamo`."""

from __future__ import annotations

from pyanamo.main import main

if __name__ == "__main__":
    main()
