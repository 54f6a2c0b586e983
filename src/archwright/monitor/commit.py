"""Group commit: a caller hands in a row and gets a future that is done once the row is durable.

One thread writes. Whatever waits when the disk is free goes into one transaction, so that the cost of a commit is
shared by all who wait for it. Fail closed: when the store refuses, every future of that transaction fails with the
store's error and the caller decides; nothing is tried again behind its back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

from archwright.errors import ArchwrightError, StoreError, boundary

T = TypeVar("T")

WAITING_LIMIT = 10_000  # rows waiting for the disk; beyond it new ones fail at once


class GroupCommit(Generic[T]):
    """`write` puts rows into the store in one transaction, on the thread of this writer alone; `name` is what errors
    call it."""

    def __init__(self, name: str, write: Callable[[Sequence[T]], None]) -> None:
        self._name = name
        self._write = write
        self._wake = threading.Condition()
        self._waiting: list[tuple[T, Future[None]]] = []
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def record(self, row: T) -> Future[None]:
        """A future that is done once the row is committed. It fails with StoreError: AW-STO-01 the store refuses,
        AW-STO-05 closed, AW-STO-06 too many waiting."""
        future: Future[None] = Future()
        with self._wake:
            if self._closed:
                future.set_exception(StoreError("AW-STO-05", f"the {self._name} is closed", hint="start it again"))
            elif len(self._waiting) >= WAITING_LIMIT:
                message = f"{WAITING_LIMIT:,} rows of the {self._name} wait for the disk"
                future.set_exception(StoreError("AW-STO-06", message, hint="the disk is too slow: send less"))
            else:
                self._waiting.append((row, future))
                self._wake.notify()
        return future

    def close(self) -> None:
        """Write what waits, then stop."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._waiting and not self._closed:
                    self._wake.wait()
                batch, self._waiting = self._waiting, []
            if not batch:
                return
            # A caller that gave up before the commit is left out.
            self._commit([pair for pair in batch if pair[1].set_running_or_notify_cancel()])

    def _commit(self, batch: list[tuple[T, Future[None]]]) -> None:
        try:
            with boundary(self._name):
                self._write([row for row, _ in batch])
        except ArchwrightError as error:
            for _, future in batch:
                future.set_exception(error)
            return
        for _, future in batch:
            future.set_result(None)
