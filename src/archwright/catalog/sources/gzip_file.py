"""A file as it is or packed with gzip, unpacked no further than a limit."""

from __future__ import annotations

import zlib

MAGIC = b"\x1f\x8b"
AUTOMATIC_GZIP = 31
# A bulk offer file of one region has hundreds of MB; nothing brought has more than this.
LARGEST_BYTES = 1 << 30


def decompress_gzip(data: bytes) -> bytes:
    """Raises ValueError for what is no gzip file in spite of its first bytes, or unpacks without end."""
    if not data.startswith(MAGIC):
        return data
    stream = zlib.decompressobj(AUTOMATIC_GZIP)
    try:
        plain = stream.decompress(data, LARGEST_BYTES)
    except zlib.error as error:
        raise ValueError(f"not a gzip file: {error}") from error
    if stream.unconsumed_tail:
        raise ValueError(f"unpacks to more than {LARGEST_BYTES >> 20} MiB")
    return plain
