"""archwright: plans AI infrastructure, runs it, and measures whether every promise held.

The public functions live in `archwright.api` and load on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(name)
    return getattr(import_module("archwright.api"), name)
