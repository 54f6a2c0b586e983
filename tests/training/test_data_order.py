from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archwright.training.data_order import EMPTY_DIGEST, Cursor, DataOrder, extend_digest, permute_rows

IDS = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(50)]


def walk(order: DataOrder, budget: int, steps: int) -> list[list[int]]:
    return [order.next_rows(budget) for _ in range(steps)]


def test_an_epoch_is_a_permutation_that_seed_and_epoch_decide() -> None:
    first = permute_rows(IDS, 1, 0)
    assert sorted(first) == list(range(50))
    assert first == permute_rows(IDS, 1, 0)
    assert first != permute_rows(IDS, 1, 1) != permute_rows(IDS, 2, 1)
    assert first != list(range(50))
    half = [IDS[:25][row] for row in permute_rows(IDS[:25], 1, 0)]
    assert half == [IDS[row] for row in first if row < 25]  # a row keeps its place among the others when rows go


@given(
    st.lists(st.integers(1, 90), min_size=1, max_size=40), st.integers(16, 200), st.integers(0, 5), st.integers(1, 12)
)
def test_every_epoch_has_every_row_once_and_steps_come_near_their_budget(
    lengths: list[int], budget: int, seed: int, steps: int
) -> None:
    ids = IDS[: len(lengths)]
    order = DataOrder(ids, lengths, seed, Cursor())
    epochs: dict[int, list[int]] = {}
    for _ in range(steps):
        rows = order.next_rows(budget)
        assert rows
        epochs.setdefault(order.cursor.epoch, []).extend(rows)
        filled = sum(lengths[row] for row in rows)
        # No step is over its budget by more than half its last row, unless that row stands alone.
        assert len(rows) == 1 or filled - budget <= lengths[rows[-1]] / 2
    for epoch, rows in epochs.items():
        # A step that holds them all takes them as they are.
        whole = list(range(len(ids))) if budget >= sum(lengths) else permute_rows(ids, seed, epoch)
        assert rows == (whole if epoch < max(epochs) else whole[: len(rows)])


@given(st.lists(st.integers(1, 90), min_size=1, max_size=30), st.integers(16, 200), st.integers(0, 15))
def test_going_on_from_a_cursor_is_going_on(lengths: list[int], budget: int, broken_after: int) -> None:
    ids = IDS[: len(lengths)]
    unbroken = DataOrder(ids, lengths, 1, Cursor())
    whole = walk(unbroken, budget, 16)
    before = DataOrder(ids, lengths, 1, Cursor())
    made = walk(before, budget, broken_after)
    after = DataOrder(ids, lengths, 1, before.cursor)
    assert made + walk(after, budget, 16 - broken_after) == whole
    assert after.cursor == unbroken.cursor


def test_the_digest_tells_one_order_from_another() -> None:
    assert extend_digest(EMPTY_DIGEST, ["a", "b"]) != extend_digest(EMPTY_DIGEST, ["b", "a"])
    assert extend_digest(extend_digest(EMPTY_DIGEST, ["a"]), ["b"]) != extend_digest(EMPTY_DIGEST, ["a"])
    order = DataOrder(IDS, [1] * 50, 1, Cursor())
    rows = order.next_rows(3)
    assert order.cursor.order_sha256 == extend_digest(EMPTY_DIGEST, [IDS[row] for row in rows])


@pytest.mark.parametrize(("budget", "expected"), [(10, 1), (14, 1), (16, 2), (20, 2), (26, 3)])
def test_a_step_ends_at_the_row_that_brings_it_nearest(budget: int, expected: int) -> None:
    assert len(DataOrder(IDS, [10] * 50, 1, Cursor()).next_rows(budget)) == expected
