from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from archwright.contract.plan import MachineFacts
from archwright.errors import missing_extra
from archwright.home import Home


def cached_machine(home: Home) -> MachineFacts | None:
    """The measured layer of `home`, None when absent or unreadable."""
    path = home.root / "measured" / "machine.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=MachineFacts)
    except (OSError, msgspec.DecodeError):
        return None


def probe_machine(home: Home, model_file: Path | None, *, now: Callable[[], float]) -> MachineFacts:
    raise missing_extra("local", "numpy", "the probe")
