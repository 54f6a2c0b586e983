"""A row of the accounts: as flat in memory as on the slate, since each is read and written at every request.

A level (at_us, requests, tokens, spent_nusd), the period its money is of, and of each worker that holds something its
number, nano-USD and tokens.
"""

from __future__ import annotations

import struct
from functools import cache

from archwright.policy.usage_limits import AccountLevel

Row = tuple[int, ...]
PERIOD, HELD = 4, 5  # places in a row
UNKNOWN = -1  # a period: what was spent is not known here
NEW: Row = (0, 0, 0, 0, UNKNOWN)
_FORMAT, _FORMAT_HELD = "<5q", "I2q"


@cache
def _layout(fields: int) -> struct.Struct:
    return struct.Struct(_FORMAT + (fields - HELD) // 3 * _FORMAT_HELD)


@cache
def _layout_of(size: int) -> struct.Struct:
    """The same, of a row that takes so many bytes."""
    bare = struct.calcsize(_FORMAT)
    return _layout(HELD + (size - bare) // (struct.calcsize(_FORMAT + _FORMAT_HELD) - bare) * 3)


def encoded(row: Row) -> bytes:
    return _layout(len(row)).pack(*row)


def decoded(raw: bytes) -> Row:
    return _layout_of(len(raw)).unpack(raw)


def held_nusd(row: Row) -> int:
    """What all workers hold of it."""
    return row[HELD + 1] if len(row) == HELD + 3 else sum(row[HELD + 1 :: 3])


def moved(level: AccountLevel, period: int, row: Row, worker: int, nusd: int, tokens: int) -> Row:
    """The row at another level, the worker's own entry changed by so much; one that holds nothing is gone."""
    others: Row = ()
    if len(row) == HELD + 3 and row[HELD] == worker:  # it is alone, or alone at work
        nusd += row[HELD + 1]
        tokens += row[HELD + 2]
    else:
        for place in range(HELD, len(row), 3):
            if row[place] == worker:
                nusd += row[place + 1]
                tokens += row[place + 2]
            else:
                others += row[place : place + 3]
    if nusd > 0 or tokens > 0:
        return (*level, period, *others, worker, nusd if nusd > 0 else 0, tokens if tokens > 0 else 0)
    return (*level, period, *others)
