"""Plans that are made once per test run for all workers, because a plan of an example takes a second or two."""

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
    """A folder with a plan file for each set of needs; `_kept` holds plans in memory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._folder.mkdir(exist_ok=True)
        self._kept: dict[str, Plan] = {}

    def find(self, key: str, make: Callable[[], Plan], *, keep: bool = False) -> Plan:
        """Return the plan of this key, which names all its inputs; with `keep` it stays in memory."""
        name = hashlib.sha256(key.encode()).hexdigest()
        plan = self._kept.get(name) or self._read_or_make(self._folder / f"{name}.json", make)
        if keep:
            self._kept[name] = plan
        return plan

    def _read_or_make(self, path: Path, make: Callable[[], Plan]) -> Plan:
        """Read the plan; the first worker makes it, and others wait for it."""
        with path.with_suffix(".lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.exists():
                return decode_plan(path.read_bytes(), path.name)
            plan = make()
            path.write_bytes(encode_plan(plan))
            return plan


def find_folder(factory: pytest.TempPathFactory) -> Path:
    """Return the folder that all workers of this run share."""
    own = factory.getbasetemp()
    return (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "planned"
