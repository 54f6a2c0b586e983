"""The kind of a test follows from what the test uses; a guard enforces it for unit tests.

A test carries one of four marks. `nightly` is given by hand. `model` runs or trains a model: it asks for `model_home`
or `learning`. `process` starts processes or opens network sockets: it asks for `processes` or carries `enable_socket`.
`unit` is every other test. If no fixture shows the kind, the mark is given by hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess

import pytest

KINDS = ("nightly", "model", "process", "unit")
# Fixtures and marks that say what a test uses.
SAYING = {"model": {"model_home", "learning"}, "process": {"processes", "enable_socket"}}
STARTS = frozenset({"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system", "os.exec"})
NETWORK = frozenset({"socket.bind", "socket.connect"})
LOADS = frozenset({"xllamacpp"})


def find_kind(marks: Sequence[str], fixtures: Sequence[str]) -> str:
    """Return the heaviest kind, by a mark of this name or by the fixtures in use."""
    used = {*marks, *fixtures}
    return next((kind for kind in KINDS if used & {kind, *SAYING.get(kind, ())}), "unit")


class Guard:
    """Refuses processes, network sockets and the model only while a unit test runs."""

    def __init__(self) -> None:
        self._watching = False
        self._refused: list[str] = []

    def hear(self, event: str, arguments: tuple[object, ...]) -> None:
        """Handle an event of the interpreter, as an audit hook; it must be fast."""
        if not self._watching:
            return
        if event in STARTS:
            self.refuse("starts a process", "asks for `processes` or carries the mark `process`")
        elif event in NETWORK and getattr(getattr(arguments[0], "family", None), "name", "").startswith("AF_INET"):
            self.refuse("opens a network socket", "carries the mark `enable_socket`")
        elif event == "import" and arguments[0] in LOADS:
            self.refuse("loads the engine of the model", "asks for `model_home` or carries the mark `model`")

    def hear_step(self, *_: object) -> None:
        """Refuse a step of an optimiser of torch."""
        if self._watching:
            self.refuse("trains a model", "asks for `learning` or carries the mark `model`")

    def refuse(self, what: str, instead: str) -> None:
        said = f"a unit test {what}: a test that does so {instead} (tests/kinds.py)"
        self._refused.append(said)
        pytest.fail(said)

    @contextmanager
    def watching(self, item: pytest.Item) -> Iterator[None]:
        """Watch the test if it is a unit test."""
        self._watching = item.get_closest_marker("unit") is not None
        try:
            yield
        finally:
            self._watching = False
            refused, self._refused = self._refused, []
        if refused:  # in a thread perhaps, or swallowed on its way
            pytest.fail(refused[0])

    def guard_multiprocessing(self) -> None:
        """Refuse processes of multiprocessing, which start without an audit event."""
        begin = BaseProcess.start

        def start(process: BaseProcess) -> None:
            if self._watching:
                self.refuse("starts a process", "carries the mark `process`")
            begin(process)

        BaseProcess.start = start  # type: ignore[method-assign, assignment]


GUARD = Guard()
