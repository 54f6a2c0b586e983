"""Read the bytes per second of a WAV file, and refuse a file that two decoders read in two ways.

Design: some decoders believe the first `fmt ` chunk of a file and others the last. The file would be short for the
gateway and long for the engine, so repeated and contradicting chunks are refused.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from archwright.serving.http.errors import ApiError, invalid_value

RIFF_BYTES, CHUNK_HEADER_BYTES, FORMAT_BYTES = 12, 8, 16
PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
SUBFORMAT_AT = 24  # of the `fmt ` chunk of an extensible format
MAX_CHUNKS = 1_000
MAX_CHANNELS, MAX_SAMPLE_RATE, MAX_SAMPLE_BITS = 64, 768_000, 64


class WavFormat(NamedTuple):
    """The first fields of a `fmt ` chunk, in their order."""

    tag: int
    channels: int
    sample_rate: int
    byte_rate: int
    frame_bytes: int
    sample_bits: int


def read_byte_rate(data: bytes) -> int | None:
    """Return the bytes of a second of sound; None for a file that is no uncompressed WAV.

    Raises ApiError 400 if the file has a chunk twice, or if the fields of its format contradict each other."""
    if data[:4] != b"RIFF" or data[8:RIFF_BYTES] != b"WAVE":
        return None
    chunks: dict[bytes, int] = {}
    for number, (name, begin) in enumerate(_list_chunks(data)):
        if number == MAX_CHUNKS:
            raise _contradiction(f"it has more than {MAX_CHUNKS} chunks")
        if name in chunks and name in (b"fmt ", b"data"):
            raise _contradiction(f"it has two {name.decode().strip()!r} chunks")
        chunks[name] = begin
    format_at = chunks.get(b"fmt ", len(data))
    if chunks.get(b"data", 0) < format_at or len(data) < format_at + FORMAT_BYTES:
        return None
    found = WavFormat(*struct.unpack_from("<HHIIHH", data, format_at))
    tag = found.tag
    if tag == EXTENSIBLE and len(data) >= format_at + SUBFORMAT_AT + 2:
        (tag,) = struct.unpack_from("<H", data, format_at + SUBFORMAT_AT)
    if tag not in (PCM, FLOAT):
        return None  # compressed
    _check_format(found)
    return found.byte_rate


def _check_format(found: WavFormat) -> None:
    frame_bytes = found.channels * ((found.sample_bits + 7) // 8)
    if found.frame_bytes != frame_bytes:
        problem = f"its {found.channels} channels of {found.sample_bits} bits have {frame_bytes} bytes together"
        raise _contradiction(f"{problem}, and it states {found.frame_bytes}")
    if found.byte_rate != found.sample_rate * frame_bytes:
        problem = f"{found.sample_rate} frames of {frame_bytes} bytes make {found.sample_rate * frame_bytes} per second"
        raise _contradiction(f"{problem}, and it states {found.byte_rate}")
    maximum = MAX_CHANNELS, MAX_SAMPLE_RATE, MAX_SAMPLE_BITS
    stated = found.channels, found.sample_rate, found.sample_bits
    if not all(0 < value <= limit for value, limit in zip(stated, maximum, strict=True)):
        limits = f"{MAX_CHANNELS} channels, {MAX_SAMPLE_RATE} Hz and {MAX_SAMPLE_BITS} bits"
        raise _contradiction(f"its format is not within 1 and {limits}")


def _list_chunks(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield the name of each chunk and where its content begins. The last one may state more bytes than there are."""
    at = RIFF_BYTES
    while at + CHUNK_HEADER_BYTES <= len(data):
        name, size = struct.unpack_from("<4sI", data, at)
        at += CHUNK_HEADER_BYTES
        yield name, at
        at += size + size % 2


def _contradiction(problem: str) -> ApiError:
    message = f"'file' is a WAV file that decoders read in different ways: {problem}. Write the file again."
    return invalid_value(message, "file")
