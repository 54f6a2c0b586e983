"""The disk reserve: held by gateways, freed by administration, and never taken by a gateway."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import closing
from typing import NamedTuple

import pytest

from archwright.errors import StoreError
from archwright.home import Home
from archwright.monitor.wal.disk_reserve import (
    ACT_BYTES,
    RESERVE_BYTES,
    count_reserved_bytes,
    hold_reserve,
    release_reserve,
)
from archwright.monitor.wal.writer import SEGMENT_BYTES, WalWriter
from archwright.store import Store


class Usage(NamedTuple):
    free: int


@pytest.fixture
def set_free(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Set the free bytes that the disk reports."""
    return lambda free: monkeypatch.setattr("shutil.disk_usage", lambda _path: Usage(free))


def test_the_reserve_is_held_while_there_is_space_and_freed_on_a_full_disk(
    home: Home, set_free: Callable[[int], None]
) -> None:
    set_free(4 * RESERVE_BYTES - 1)
    hold_reserve(home)
    assert not home.disk_reserve.exists()
    set_free(4 * RESERVE_BYTES)
    hold_reserve(home)
    hold_reserve(home)
    assert home.disk_reserve.stat().st_blocks * 512 >= RESERVE_BYTES
    release_reserve(home)
    assert count_reserved_bytes(home) == RESERVE_BYTES
    set_free(0)
    for act in range(1, 1 + RESERVE_BYTES // ACT_BYTES):
        release_reserve(home)
        assert count_reserved_bytes(home) == RESERVE_BYTES - act * ACT_BYTES, "other programs took what was freed"
    release_reserve(home)
    set_free(4 * RESERVE_BYTES)
    hold_reserve(home)
    assert home.disk_reserve.stat().st_blocks * 512 >= RESERVE_BYTES, "it is whole again"


def test_what_an_act_freed_serves_the_next_acts(home: Home, set_free: Callable[[int], None]) -> None:
    set_free(4 * RESERVE_BYTES)
    hold_reserve(home)
    set_free(ACT_BYTES // 2)
    release_reserve(home)
    assert count_reserved_bytes(home) == RESERVE_BYTES


def test_a_reserve_that_cannot_be_allocated_leaves_no_file(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_handle: int, _offset: int, _size: int) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr("os.posix_fallocate", refuse)
    hold_reserve(home)
    assert not home.disk_reserve.exists()


def test_a_gateway_leaves_free_what_administration_needs(
    store: Store, home: Home, set_free: Callable[[int], None]
) -> None:
    set_free(SEGMENT_BYTES + RESERVE_BYTES - 1)
    with closing(WalWriter(store, home, keeps_reserve=True)) as wal:
        with pytest.raises(StoreError, check=lambda error: error.code == "AW-STO-06"):
            wal.check_space()
        with closing(WalWriter(store, home)) as administration:
            administration.check_space()
        set_free(SEGMENT_BYTES + RESERVE_BYTES)
        wal.check_space()
