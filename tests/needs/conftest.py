"""A refusal, and what every refusal of a needs file owes its reader."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.tools.work import counted_calls

from archwright.catalog.load import load_catalog
from archwright.errors import NeedsError
from archwright.needs.reader import parse_needs

CALLS_LIMIT = 10_000_000

Refused = Callable[[bytes], NeedsError]


@pytest.fixture(scope="session")
def refused() -> Refused:
    """The error for some bytes: within the stated deadline, in three short lines a terminal can show."""

    def refuse(data: bytes) -> NeedsError:
        catalog = load_catalog()
        with pytest.raises(NeedsError) as caught, counted_calls() as work:
            parse_needs(data, "needs.yaml", catalog)
        assert work.calls < CALLS_LIMIT
        error, lines = caught.value, caught.value.lines().splitlines()
        assert len(lines) == 3 and max(len(line) for line in lines) < 400
        assert all(line.isprintable() for line in lines)
        assert error.where.file == "needs.yaml" and error.hint
        return error

    return refuse
