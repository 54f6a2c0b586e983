"""A gateway with narrow limits and a null engine that counts, for whatever is put on its wire."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from archwright.home import Home
from archwright.serving.http.client_limits import ClientLimits

from ..conftest import Platform, endpoint, free_port, null_engine, running, table

LIMITS = ClientLimits(
    body_bytes=50_000, header_bytes=8_192, headers=50, chunks=200, headers_s=1.0, body_s=1.0, sweep_s=0.05
)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    config = table(endpoint(), port=free_port(), limits=LIMITS)
    with running(Home(tmp_path_factory.mktemp("narrow")), config, null_engine()) as platform:
        yield platform
