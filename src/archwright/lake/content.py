"""What a version holds, as one digest: of its sorted record ids, so that neither the order of rows nor the files they
lie in matter. 32 bytes of memory a row."""

from __future__ import annotations

import hashlib
from typing import Any


class Content:
    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self.rows = 0

    def add(self, record_ids: Any) -> None:
        """An Arrow array of record ids (hexadecimal)."""
        self._parts.append(bytes.fromhex("".join(record_ids.to_pylist())))
        self.rows += len(record_ids)

    def hexdigest(self) -> str:
        import numpy  # noqa: PLC0415

        ids = numpy.frombuffer(b"".join(self._parts), dtype=numpy.dtype("S32"))
        return hashlib.sha256(numpy.sort(ids).tobytes()).hexdigest()
