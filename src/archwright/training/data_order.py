"""Order of training rows: one permutation per epoch, cut into steps.

A row's place in an epoch is the rank of SHA-256(seed, epoch, record_id), so a resumed run sees the same order.
A step ends at the row that brings it nearest to its budget, and at the end of an epoch. A step with all rows (boosting)
is not shuffled, since shuffling costs many times the step.
"""

import hashlib
from collections.abc import Iterable, Sequence

from archwright.contract.record import Record

EMPTY_DIGEST = hashlib.sha256(b"").hexdigest()


class Cursor(Record):
    """The next row is at `position` of `epoch`; `order_sha256` digests the ids of all rows before it."""

    epoch: int = 0
    position: int = 0
    order_sha256: str = EMPTY_DIGEST


def permute_rows(ids: Sequence[str], seed: int, epoch: int) -> list[int]:
    keys = [hashlib.sha256(f"{seed} {epoch} {name}".encode()).digest() for name in ids]
    return sorted(range(len(ids)), key=keys.__getitem__)


def extend_digest(order_sha256: str, ids: Iterable[str]) -> str:
    return hashlib.sha256("\n".join([order_sha256, *ids]).encode()).hexdigest()


class DataOrder:
    """Walks through the epochs from a cursor. `lengths[i]` is row i's size in the budget's unit."""

    def __init__(self, ids: Sequence[str], lengths: Sequence[int], seed: int, cursor: Cursor) -> None:
        self.cursor = cursor
        self._ids = ids
        self._lengths = lengths
        self._seed = seed
        self._whole, self._all = sum(lengths), list(range(len(ids)))
        self._ids_sha256 = extend_digest(EMPTY_DIGEST, ids)
        self._shuffled: int | None = None
        self._rows: list[int] = []

    def next_rows(self, budget: int) -> list[int]:
        """The rows of the next step; the cursor moves past them."""
        epoch, position = self.cursor.epoch, self.cursor.position
        if position == len(self._ids):
            epoch, position = epoch + 1, 0
        if position == 0 and budget >= self._whole:
            digest = extend_digest(self.cursor.order_sha256, [self._ids_sha256])
            self.cursor = Cursor(epoch=epoch, position=len(self._ids), order_sha256=digest)
            return self._all
        if self._shuffled != epoch:
            self._rows, self._shuffled = permute_rows(self._ids, self._seed, epoch), epoch
        end, filled = position, 0
        while end < len(self._rows):
            length = self._lengths[self._rows[end]]
            if end > position and filled + length - budget > budget - filled:
                break
            end, filled = end + 1, filled + length
        taken = self._rows[position:end]
        digest = extend_digest(self.cursor.order_sha256, (self._ids[row] for row in taken))
        self.cursor = Cursor(epoch=epoch, position=end, order_sha256=digest)
        return taken
