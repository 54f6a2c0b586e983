"""Content digest of a version: SHA-256 of its sorted record ids, with 32 bytes of memory per row."""

import hashlib
from typing import Any

from archwright.lake.lazy_modules import pa, pc

DIGEST_BYTES = 32
BATCH_ROWS = 65536


class ContentDigest:
    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self.rows = 0

    def add(self, record_ids: Any) -> None:
        """Add an Arrow array of hexadecimal record ids."""
        self._parts.append(bytes.fromhex("".join(record_ids.to_pylist())))
        self.rows += len(record_ids)

    def hexdigest(self) -> str:
        raw = b"".join(self._parts)
        ids = pa.Array.from_buffers(pa.binary(DIGEST_BYTES), self.rows, [None, pa.py_buffer(raw)])
        order = pc.array_sort_indices(ids)
        digest = hashlib.sha256()
        for start in range(0, self.rows, BATCH_ROWS):
            sorted_ids = ids.take(order.slice(start, BATCH_ROWS))
            digest.update(sorted_ids.buffers()[1].slice(0, len(sorted_ids) * DIGEST_BYTES))
        return digest.hexdigest()
