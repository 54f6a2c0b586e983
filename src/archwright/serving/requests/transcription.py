"""Read an upload of sound to transcribe, and bound its tokens by its length.

Design: providers charge sound by the second or by tokens. One second counts as the frames of Whisper's encoder, so one
price per token covers both. The bound of a compressed file is its length at the lowest bit rate of speech.
"""

import math
from typing import Annotated, Literal, NamedTuple

import msgspec

from archwright.serving.http.errors import unsupported_value
from archwright.serving.http.multipart import FormPart, parse_form
from archwright.serving.requests.field_selection import select_fields
from archwright.serving.requests.model_resolution import ModelDirectory
from archwright.serving.requests.request_validation import GenerationRequest, find_endpoint
from archwright.serving.requests.typed_requests import Label, ModelRequest, Share, check_types
from archwright.serving.requests.wav_format import read_byte_rate

INPUT_TOKENS_PER_SECOND = 50
OUTPUT_TOKENS_PER_SECOND = 15  # Whisper: at most 448 in 30 s
LOWEST_BYTES_PER_SECOND, USUAL_BYTES_PER_SECOND = 750, 16_000  # 6 and 128 kbit/s


class TranscriptionRequest(ModelRequest, kw_only=True):
    """The form of POST /v1/audio/transcriptions."""

    file: Annotated[bytes, msgspec.Meta(min_length=1)]
    language: Label | None = None
    prompt: str | None = None
    response_format: Literal["json", "verbose_json"] | None = None
    temperature: Share | None = None
    stream: bool | None = None
    granularities: list[Literal["word", "segment"]] | None = msgspec.field(
        name="timestamp_granularities[]", default=None
    )


class Recording(NamedTuple):
    """A file of sound. `most_s`: the seconds that it may last; `usual_s`: an estimate."""

    file: FormPart
    most_s: float
    usual_s: float


def validate_transcription(
    body: bytes, content_type: str, directory: ModelDirectory, workload: str | None
) -> tuple[GenerationRequest, Recording]:
    """Validate a form. Raises ApiError 400 and 404."""
    fields, file = parse_form(body, content_type)
    asked = check_types(fields, TranscriptionRequest, strict=False)
    assert file is not None and fields.pop("file"), "a form without its file"
    if asked.stream:
        raise unsupported_value("'stream': transcriptions are not streamed", "stream")
    found = directory.resolve(asked.model, workload)
    endpoint = find_endpoint(found, "transcriptions")
    sound = measure_sound(file)
    prompt = asked.prompt or ""
    return GenerationRequest(
        model=found.name,
        endpoint=endpoint,
        body={**select_fields(fields, endpoint, "transcriptions"), "model": endpoint.model},
        max_tokens=math.ceil(sound.most_s * OUTPUT_TOKENS_PER_SECOND),
        plain=found.plain,
        prompt_characters=len(prompt),
        input_tokens=count_sound_tokens(sound.most_s) + len(prompt.encode()),
        input_kinds=frozenset({"audio"}),
    ), sound


def count_sound_tokens(seconds: float) -> int:
    return max(1, math.ceil(seconds * INPUT_TOKENS_PER_SECOND))


def measure_sound(file: FormPart) -> Recording:
    """Measure a file of sound: an uncompressed WAV by all its bytes, because its header may understate them.

    No file lasts less than its bytes at a usual bit rate. Raises ApiError 400 for a WAV that contradicts itself."""
    size = len(file.data)
    usual_s, byte_rate = size / USUAL_BYTES_PER_SECOND, read_byte_rate(file.data)
    if byte_rate is None:
        return Recording(file, size / LOWEST_BYTES_PER_SECOND, usual_s)
    seconds = size / byte_rate
    return Recording(file, max(seconds, usual_s), seconds)
