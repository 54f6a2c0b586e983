"""Row of an account in the shared table: level (at_us, requests, tokens, spent_nusd), period,
reservations.

Each worker with reservations has three fields: its number, reserved nano-USD, reserved tokens.
Design: a flat tuple, packed without conversion, because every request reads and writes its rows.
"""

import struct
from functools import cache

from archwright.policy.usage_limits import AccountLevel

AccountRow = tuple[int, ...]
PERIOD_INDEX, RESERVED_INDEX = 4, 5
UNKNOWN_PERIOD = -1  # the spend must be read from the usage records
NEW_ROW: AccountRow = (0, 0, 0, 0, UNKNOWN_PERIOD)
_FORMAT, _FORMAT_RESERVED = "<5q", "I2q"


@cache
def _build_struct(fields: int) -> struct.Struct:
    return struct.Struct(_FORMAT + (fields - RESERVED_INDEX) // 3 * _FORMAT_RESERVED)


@cache
def _build_struct_by_size(size: int) -> struct.Struct:
    bare = struct.calcsize(_FORMAT)
    return _build_struct(RESERVED_INDEX + (size - bare) // (struct.calcsize(_FORMAT + _FORMAT_RESERVED) - bare) * 3)


def encode_row(row: AccountRow) -> bytes:
    return _build_struct(len(row)).pack(*row)


def decode_row(raw: bytes) -> AccountRow:
    return _build_struct_by_size(len(raw)).unpack(raw)


def sum_reserved_nusd(row: AccountRow) -> int:
    """Return the nano-USD that all workers have reserved."""
    return row[RESERVED_INDEX + 1] if len(row) == RESERVED_INDEX + 3 else sum(row[RESERVED_INDEX + 1 :: 3])


def update_row(level: AccountLevel, period: int, row: AccountRow, worker: int, nusd: int, tokens: int) -> AccountRow:
    """Return the row with a new level and the worker's reservation changed; an empty reservation is
    removed.
    """
    others: AccountRow = ()
    if len(row) == RESERVED_INDEX + 3 and row[RESERVED_INDEX] == worker:  # the only reservation: fast path
        nusd += row[RESERVED_INDEX + 1]
        tokens += row[RESERVED_INDEX + 2]
    else:
        for place in range(RESERVED_INDEX, len(row), 3):
            if row[place] == worker:
                nusd += row[place + 1]
                tokens += row[place + 2]
            else:
                others += row[place : place + 3]
    if nusd > 0 or tokens > 0:
        return (*level, period, *others, worker, nusd if nusd > 0 else 0, tokens if tokens > 0 else 0)
    return (*level, period, *others)
