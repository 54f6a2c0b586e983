"""Row of an account in the shared table.

A row is its level (at_us, requests, tokens, spent_nusd), its period, and its reservations. Each
worker with reservations has three fields: its number, reserved nano-USD, reserved tokens.

Design: a flat tuple, packed without conversion, because every request reads and writes its rows.
"""

import struct
from functools import cache

from archwright.policy.usage_limits import AccountLevel

AccountRow = tuple[int, ...]
SPENT_INDEX = 3
PERIOD_INDEX = 4
RESERVED_INDEX = 5
RESERVED_FIELDS = 3
UNKNOWN_PERIOD = -1  # the spend must be read from the usage records
NEW_ROW: AccountRow = (0, 0, 0, 0, UNKNOWN_PERIOD)
_FORMAT = "<5q"
_FORMAT_RESERVED = "I2q"
_BARE_BYTES = struct.calcsize(_FORMAT)
_RESERVED_BYTES = struct.calcsize(_FORMAT + _FORMAT_RESERVED) - _BARE_BYTES
# Length of a row with the reservations of one worker, the most frequent one.
_LENGTH_OF_ONE_WORKER = RESERVED_INDEX + RESERVED_FIELDS


@cache
def _build_struct(length: int) -> struct.Struct:
    """Return the format of a row with so many fields."""
    workers = (length - RESERVED_INDEX) // RESERVED_FIELDS
    return struct.Struct(_FORMAT + workers * _FORMAT_RESERVED)


@cache
def _build_struct_by_size(size_bytes: int) -> struct.Struct:
    workers = (size_bytes - _BARE_BYTES) // _RESERVED_BYTES
    return _build_struct(RESERVED_INDEX + workers * RESERVED_FIELDS)


def encode_row(row: AccountRow) -> bytes:
    return _build_struct(len(row)).pack(*row)


def decode_row(raw: bytes) -> AccountRow:
    return _build_struct_by_size(len(raw)).unpack(raw)


def sum_reserved_nusd(row: AccountRow) -> int:
    """Return the nano-USD that all workers have reserved."""
    if len(row) == _LENGTH_OF_ONE_WORKER:
        return row[RESERVED_INDEX + 1]
    return sum(row[RESERVED_INDEX + 1 :: RESERVED_FIELDS])


def update_row(
    row: AccountRow,
    level: AccountLevel,
    *,
    period: int,
    worker: int,
    nusd: int,
    tokens: int,
) -> AccountRow:
    """Return the row with a new level and period, and `worker`'s reservation changed.

    `nusd`, `tokens`: what is added to the reservation; an empty reservation is removed.
    """
    of_others: AccountRow = ()
    if len(row) == _LENGTH_OF_ONE_WORKER and row[RESERVED_INDEX] == worker:
        nusd += row[RESERVED_INDEX + 1]
        tokens += row[RESERVED_INDEX + 2]
    else:
        for index in range(RESERVED_INDEX, len(row), RESERVED_FIELDS):
            if row[index] == worker:
                nusd += row[index + 1]
                tokens += row[index + 2]
            else:
                of_others += row[index : index + RESERVED_FIELDS]

    if nusd <= 0 and tokens <= 0:
        return (*level, period, *of_others)
    # Faster than max().
    nusd = nusd if nusd > 0 else 0
    tokens = tokens if tokens > 0 else 0
    return (*level, period, *of_others, worker, nusd, tokens)
