"""Plans made once for a whole run, whichever of its workers asks first: an example's plan takes a second or two, and
many tests read the same one."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from archwright.contract.plan import Plan
from archwright.plan.plan_file import decode_plan, encode_plan


class Planned:
    """A folder of the run with a plan file for each set of needs. `kept` are those that were read already."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._folder.mkdir(exist_ok=True)
        self._kept: dict[str, Plan] = {}

    def find(self, key: str, make: Callable[[], Plan], *, keep: bool = False) -> Plan:
        """The plan of this key, which says all it was made from; with `keep` it stays in memory."""
        name = hashlib.sha256(key.encode()).hexdigest()
        plan = self._kept.get(name) or self._read_or_make(self._folder / f"{name}.json", make)
        if keep:
            self._kept[name] = plan
        return plan

    def _read_or_make(self, path: Path, make: Callable[[], Plan]) -> Plan:
        """One worker makes it, who asks meanwhile waits for it."""
        with path.with_suffix(".lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.exists():
                return decode_plan(path.read_bytes(), path.name)
            plan = make()
            path.write_bytes(encode_plan(plan))
            return plan


def find_folder(factory: pytest.TempPathFactory) -> Path:
    """What all workers of this run share; of a run without workers its own."""
    own = factory.getbasetemp()
    return (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "planned"
