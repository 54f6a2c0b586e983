"""The length of a file of sound, whatever its bytes are."""

from __future__ import annotations

import io
import wave

from hypothesis import given, settings
from hypothesis import strategies as st

from archwright.serving.http.errors import ApiError
from archwright.serving.http.multipart import FormPart
from archwright.serving.requests.transcription import LOWEST_BYTES_PER_SECOND, USUAL_BYTES_PER_SECOND, measure_sound


def wav(rate: int, channels: int, width: int, seconds: float) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as sound:
        sound.setnchannels(channels)
        sound.setsampwidth(width)
        sound.setframerate(rate)
        sound.writeframes(bytes(int(rate * seconds) * channels * width))
    return out.getvalue()


@given(st.integers(8_000, 48_000), st.integers(1, 2), st.sampled_from((1, 2, 3)), st.floats(0.1, 2))
@settings(max_examples=30, deadline=None)
def test_a_wav_lasts_as_long_as_its_bytes(rate: int, channels: int, width: int, seconds: float) -> None:
    found = measure_sound(FormPart("file", "a.wav", "audio/wav", wav(rate, channels, width, seconds)))
    assert seconds - 1 / rate <= found.usual_s <= seconds + 0.01
    assert found.most_s == max(found.usual_s, len(found.file.data) / USUAL_BYTES_PER_SECOND)


def test_a_header_that_states_less_than_follows_counts_for_nothing() -> None:
    whole = wav(8_000, 1, 2, 2)
    # What follows the stated bytes reads as one more chunk, which is too long for the file.
    lying = whole[:40] + (100).to_bytes(4, "little") + b"\x11" * len(whole[44:])
    assert measure_sound(FormPart("file", "a", "", lying)).most_s >= 2


@given(st.lists(st.tuples(st.integers(0, 59), st.integers(0, 255)), max_size=8), st.integers(1, 200))
@settings(max_examples=300, deadline=None)
def test_no_header_fails_or_lasts_longer_than_the_lowest_bit_rate_allows(
    changes: list[tuple[int, int]], size: int
) -> None:
    data = bytearray(wav(8_000, 1, 2, 0.01))
    for at, value in changes:
        data[at] = value
    try:
        found = measure_sound(FormPart("file", "a", "", bytes(data[:size])))
    except ApiError:  # its chunks contradict each other
        return
    assert 0 < found.usual_s <= found.most_s
    assert found.most_s <= max(len(data) / LOWEST_BYTES_PER_SECOND, size)
