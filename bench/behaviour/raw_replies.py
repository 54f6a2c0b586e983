"""A pytest plugin of record.py: writes status and headers of every reply to the raw cases to the file RAW_RECORD."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

FOUND: dict[str, list[Any]] = {}


def pytest_runtest_call(item: Any) -> None:
    """Wrap the reader of replies in the module of the test."""
    module, case = item.module, item.callspec.params.get("case") if hasattr(item, "callspec") else None
    name = next((name for name in ("parsed", "parse_replies") if hasattr(module, name)), None)
    if case is None or name is None:
        return
    original = getattr(module, name)
    original = getattr(original, "original", original)

    def wrapped(*given: Any) -> Any:
        replies = original(*given)
        FOUND[case.name] = [[r.status, {k.decode(): v.decode() for k, v in r.headers.items()}] for r in replies]
        return replies

    wrapped.original = original  # type: ignore[attr-defined]
    setattr(module, name, wrapped)


def pytest_sessionfinish() -> None:
    Path(os.environ["RAW_RECORD"]).write_text(json.dumps(FOUND, indent=1, sort_keys=True))
