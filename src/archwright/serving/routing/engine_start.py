"""Requests of the gateway to the supervisor: start the engine of a pool whose model is not in memory.

Design: a request is an empty file in the home. It needs no connection, survives a crash of either side, and engines of
another user cannot write there. The supervisor removes it when the gateway may use the engine.
"""

from archwright.home import Home

FAILED = ".failed"


class EngineStart:
    """The start of one engine, as its pool and the supervisor see it."""

    def __init__(self, home: Home, engine: str) -> None:
        self._asked = home.start_requests / engine
        self._failed = home.start_requests / f"{engine}{FAILED}"

    def ask(self) -> None:
        self._failed.unlink(missing_ok=True)
        self._asked.touch()

    def has_failed(self) -> bool:
        return self._failed.exists()

    def end(self, *, failed: bool = False) -> None:
        """Remove the request; with `failed` every process of the gateway refuses the requests that wait for it."""
        self._asked.unlink(missing_ok=True)
        if failed:
            self._failed.touch()


def read_start_requests(home: Home) -> set[str]:
    """Return the names of the engines that the gateway asked for."""
    return {path.name for path in home.start_requests.iterdir() if path.suffix != FAILED}
