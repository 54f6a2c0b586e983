"""The contract of a place outside the home: batches of lines."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class DeliveryBatch(NamedTuple):
    """Lines of the store `store`; `last`: number of the last record up to which the place has all of them."""

    store: str
    last: int
    lines: Sequence[bytes]


class DeliveryPlace(Protocol):
    """A place outside the home. `window_s`: least time between two batches, unless the process ends."""

    window_s: float

    def deliver(self, batch: DeliveryBatch) -> None:
        """Store the lines. Raises OSError or an ArchwrightError; then the batch comes again."""
