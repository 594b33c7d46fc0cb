"""What only integration tests share: one Prefect server for all of them, since making its database takes ten seconds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pyanamo_flows.server import PrefectServer


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A Prefect server that runs; leave it running."""
    with PrefectServer(tmp_path_factory.mktemp("prefect")) as running:
        yield running
