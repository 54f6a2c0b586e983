"""Which reader reads which format."""

from __future__ import annotations

from collections.abc import Callable

from archwright.lake import jsonl
from archwright.lake.chunks import Chunks, OnBroken
from archwright.lake.sources import Source

READERS: dict[str, Callable[[Source, OnBroken], Chunks]] = {"jsonl": jsonl.chunks}
