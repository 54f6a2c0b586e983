"""The places outside the home that a verification of the audit log reads."""

from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial

from archwright.access.audit_checkpoints import AuditCheckpoint, select_checkpoints
from archwright.access.audit_delivery.comparison import compare_with_place
from archwright.access.audit_delivery.places import read_place
from archwright.access.record_chain import ChainState
from archwright.errors import StoreError
from archwright.store import Store


class SecondPlaces:
    """The places that are read, and their `checkpoints`: they were written before what is read of the home later.

    Raises StoreError AW-STO-14 for an altered line, OSError for a place that cannot be read.
    """

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = addresses
        checkpoints: list[AuditCheckpoint] = []
        for address in addresses:
            checkpoints += select_checkpoints(read_place(address), address)
        self.checkpoints = tuple(checkpoints)

    def check_records(self, store: Store, covering: Container[AuditCheckpoint], start: ChainState) -> int:
        """Compare the log with the records of each place; return the number up to which a place confirms it.

        `covering`: the checkpoints that agree with the log.

        `start`: the log before its first record. Raises StoreError AW-STO-29, AW-STO-30.
        """
        agreed = 0
        for checkpoint in self.checkpoints:
            if checkpoint in covering:
                agreed = max(agreed, checkpoint.records)
        for address in self._addresses:
            comparison = compare_with_place(store, partial(read_place, address), start)
            comparison.check(address)
            agreed = max(agreed, comparison.agreed)
        return agreed

    @contextmanager
    def explain_findings(self, store: Store, start: ChainState) -> Iterator[None]:
        """Add to an error of the log which records differ from those of the places."""
        try:
            yield
        except StoreError as finding:
            explanations = list(self._explain(store, start))
            if not explanations:
                raise
            message = ". ".join((finding.message, *explanations))
            raise StoreError(finding.code, message, where=finding.where, hint=finding.hint) from finding

    def _explain(self, store: Store, start: ChainState) -> Iterator[str]:
        with suppress(StoreError):  # the log may be too damaged to be compared
            for address in self._addresses:
                differences = compare_with_place(store, partial(read_place, address), start).describe()
                if differences:
                    yield f"{address}: {differences}"
