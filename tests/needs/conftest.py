"""A refusal, and what every refusal of a needs file owes its reader."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from archwright.catalog.load import load_catalog
from archwright.errors import NeedsError
from archwright.needs.reader import parse_needs

DEADLINE_S = 2.0

Refused = Callable[[bytes], NeedsError]


@pytest.fixture(scope="session")
def refused() -> Refused:
    """The error for some bytes: within the stated deadline, in three short lines a terminal can show."""

    def refuse(data: bytes) -> NeedsError:
        started = time.thread_time()
        with pytest.raises(NeedsError) as caught:
            parse_needs(data, "needs.yaml", load_catalog())
        assert time.thread_time() - started < DEADLINE_S
        error, lines = caught.value, caught.value.lines().splitlines()
        assert len(lines) == 3 and max(len(line) for line in lines) < 400
        assert all(line.isprintable() for line in lines)
        assert error.where.file == "needs.yaml" and error.hint
        return error

    return refuse
