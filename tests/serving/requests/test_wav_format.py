"""WAV files whose chunks decoders may read in two ways."""

from __future__ import annotations

import struct

import pytest

from archwright.serving.http.errors import ApiError
from archwright.serving.http.multipart import FormPart
from archwright.serving.requests.transcription import USUAL_BYTES_PER_SECOND, measure_sound
from archwright.serving.requests.wav_format import read_byte_rate

SOUND = bytes(16_000)
HONEST = (1, 1, 8_000, 16_000, 2, 16)
HUGE = (1, 65_535, 4_294_967_295, 4_294_967_295, 65_535, 16)


def chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content


def form(*fields: int, more: bytes = b"") -> bytes:
    return chunk(b"fmt ", struct.pack("<HHIIHH", *fields) + more)


def wav(*chunks: bytes) -> bytes:
    body = b"WAVE" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


DATA = chunk(b"data", SOUND)
EXTENSION = struct.pack("<HHI", 22, 16, 4)


@pytest.mark.parametrize(
    ("file", "problem"),
    [
        (wav(form(*HONEST), DATA, form(*HUGE)), "two 'fmt' chunks"),
        (wav(form(*HONEST), form(*HUGE), DATA), "two 'fmt' chunks"),
        (wav(form(*HONEST), form(*HONEST), DATA), "two 'fmt' chunks"),
        (wav(form(*HONEST), chunk(b"data", b"ab"), DATA), "two 'data' chunks"),
        (wav(chunk(b"LIST", b"") * 2_000, form(*HONEST), DATA), "more than 1000 chunks"),
        (wav(form(*HUGE), DATA), "have 131070 bytes together"),
        (wav(form(1, 1, 8_000, 16_000, 4, 16), DATA), "have 2 bytes together, and it states 4"),
        (wav(form(1, 1, 8_000, 16_000_000, 2, 16), DATA), "make 16000 per second"),
        (wav(form(1, 1, 8_000, 65_528_000, 8_191, 65_528), DATA), "not within 1 and 64 channels"),
        (wav(form(1, 2, 1_000_000, 4_000_000, 4, 16), DATA), "not within 1 and 64 channels"),
        (wav(form(1, 0, 8_000, 0, 0, 16), DATA), "not within 1 and 64 channels"),
    ],
)
def test_a_file_that_can_be_read_in_two_ways_is_refused(file: bytes, problem: str) -> None:
    with pytest.raises(ApiError, match=problem) as refused:
        measure_sound(FormPart("file", "a.wav", "audio/wav", file))
    assert (refused.value.status, refused.value.param) == (400, "file")


@pytest.mark.parametrize(
    ("file", "byte_rate"),
    [
        (wav(chunk(b"JUNK", bytes(7)) + b"\0", form(*HONEST), DATA, chunk(b"LIST", b"ab")), 16_000),
        (wav(form(3, 2, 48_000, 384_000, 8, 32), DATA), 384_000),
        (wav(form(0xFFFE, 1, 8_000, 16_000, 2, 16, more=EXTENSION + b"\1\0" + bytes(14)), DATA), 16_000),
        (wav(form(0xFFFE, 1, 8_000, 16_000, 2, 16, more=EXTENSION + b"\x92\0" + bytes(14)), DATA), None),
        (wav(form(0x55, 1, 8_000, 1_000, 1, 0), DATA), None),
        (wav(DATA, form(*HONEST)), None),
        (wav(form(*HONEST)), None),
        (b"RIFX" + wav(form(*HONEST), DATA)[4:], None),
        (b"ID3", None),
    ],
)
def test_the_bytes_of_a_second(file: bytes, byte_rate: int | None) -> None:
    assert read_byte_rate(file) == byte_rate


def test_no_file_is_reserved_shorter_than_its_bytes_allow() -> None:
    """Sound of 12 MB per second may hide a stream of another kind."""
    file = wav(form(1, 8, 384_000, 12_288_000, 32, 32), DATA)
    found = measure_sound(FormPart("file", "a.wav", "audio/wav", file))
    assert found.most_s == len(file) / USUAL_BYTES_PER_SECOND
    assert found.usual_s == len(file) / 12_288_000
