"""Texts of the `predict` verbs: `64x1024+512`, `2.5/s x 1024+512`, `TP4 fp8`, `8x NAME`, `16 vCPU`.

Every function raises UsageError with the name of the argument that holds the text.
"""

import re

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables import name_resolution
from archwright.contract.needs import TokenLength
from archwright.contract.record import Record
from archwright.errors import UsageError, argument_error
from archwright.sizing.hardware.machine import Machine
from archwright.sizing.model.numeric_precision import parse_precision
from archwright.sizing.model.parallel_layout import parse_layout

# Each count is at least 1.
_POSITIVE_INTEGER = r"0*[1-9]\d{0,8}"
_LENGTHS = rf"\s*x\s*({_POSITIVE_INTEGER})\s*\+\s*({_POSITIVE_INTEGER})\s*$"
_CLOSED_LOAD = re.compile(rf"^\s*({_POSITIVE_INTEGER}|max){_LENGTHS}", re.IGNORECASE)
_RATE = re.compile(rf"^\s*(\d{{1,9}}(?:\.\d{{1,6}})?)\s*/\s*s{_LENGTHS}", re.IGNORECASE)
_BATCH = re.compile(rf"^\s*({_POSITIVE_INTEGER})\s*x\s*({_POSITIVE_INTEGER})\s*$", re.IGNORECASE)
_MODEL_SIZE = re.compile(r"^\s*(\d{1,4}(?:\.\d{1,4})?)\s*([mbt])\s*$", re.IGNORECASE)
_SIZES = {"m": 1e6, "b": 1e9, "t": 1e12}
# "TP 4" and "4 bit" are one word of a layout; "disagg" and the parts of "P:1x(TP4 DP1)" stand for pools.
_LAYOUT_SPACE = re.compile(r"(TP|PP|DP|EP|\d)\s+(\d|bit)", re.IGNORECASE)
_POOL_WORD = re.compile(r"disagg|[PD]:\d+x\(?$", re.IGNORECASE)
_TRAINING_WORD = re.compile(
    r"((CP|VP|MBS|GA|FSDP|DDP|ZeRO|micro|accum)-?\d*|\d+|full|none|selective|recompute|q?lora|scratch)$", re.IGNORECASE
)
_HOST = re.compile(r"^\s*(\d{1,5})\s*x?\s*v?cpus?\s*$", re.IGNORECASE)
_TOKEN_LENGTH = re.compile(r"^\s*(\d{1,7})(?:\s*\.\.\s*(\d{1,7}))?\s*$")
# The memory of a machine is not stated: this is enough for any encoder or classifier. The threads feed the device.
_RAM_BYTES = 256 * 2.0**30
_THREADS = 16
LARGEST_COUNT = 1e18
LARGEST_SIZE = 1e15


class StatedLoad(Record):
    """Requests of `prompt_tokens` and `answer_tokens` each: `in_flight` at a time, or `requests_per_second` at random.

    Without both, as many are in flight as fit.
    """

    prompt_tokens: int
    answer_tokens: int
    in_flight: int | None = None
    requests_per_second: float | None = None


class TrainingBatch(Record):
    """The batch of a training step: `sequences` of `sequence_tokens` each."""

    sequences: float
    sequence_tokens: float


def parse_serving_load(load: str) -> StatedLoad:
    """Parse requests in flight x prompt + answer tokens. Raises UsageError AW-USE-20 for anything else."""
    at_rate = _RATE.match(load)
    if at_rate is not None:
        rate = float(at_rate[1])
        if rate <= 0:
            hint = "write a rate above 0, for example 2.5/s"
            raise argument_error("AW-USE-20", f"{rate:g}/s is not a rate", "load", hint)
        return StatedLoad(prompt_tokens=int(at_rate[2]), answer_tokens=int(at_rate[3]), requests_per_second=rate)

    closed = _CLOSED_LOAD.match(load)
    if closed is None:
        raise _invalid_load_error(load, "64x1024+512, max x 1024+512, or 2.5/s x 1024+512")
    in_flight = None if closed[1].lower() == "max" else int(closed[1])
    return StatedLoad(prompt_tokens=int(closed[2]), answer_tokens=int(closed[3]), in_flight=in_flight)


def parse_training_batch(load: str) -> TrainingBatch:
    """Parse sequences x tokens. Raises UsageError AW-USE-20 for anything else."""
    batch = _BATCH.match(load)
    if batch is None:
        raise _invalid_load_error(load, "256x4096: sequences x tokens")
    return TrainingBatch(sequences=float(batch[1]), sequence_tokens=float(batch[2]))


def _invalid_load_error(load: str, example: str) -> UsageError:
    hint = f"write for example {example}; each count is at least 1"
    return argument_error("AW-USE-20", f"{load!r} is not a load", "load", hint)


def parse_model_size(model: str) -> float | None:
    """Return the parameters of a size such as "13B", None if the text is a name."""
    size = _MODEL_SIZE.match(model)
    return None if size is None else float(size[1]) * _SIZES[size[2].lower()]


def parse_token_length(tokens: str) -> TokenLength:
    """Parse a mean ("500"), or mean and p95 ("500..1500"). Raises UsageError AW-USE-20 for anything else."""
    length = _TOKEN_LENGTH.match(tokens)
    if length is None or not int(length[1]):
        hint = "write for example 500, or 500..1500"
        raise argument_error("AW-USE-20", f"{tokens!r} is not a length", "tokens", hint)
    mean = float(length[1])
    return TokenLength(mean=mean, p95=max(mean, float(length[2] or mean)))


def parse_devices(on: str) -> tuple[int, str]:
    """Return count and name of "8x NAME". Raises UsageError AW-USE-23 if the count is 0."""
    count, name = name_resolution.parse_machine(on)
    if count < 1:
        hint = "write a count and a name, for example 8xNAME"
        raise argument_error("AW-USE-23", f"{on!r} names no device", "on", hint)
    return count, name


def parse_machine(on: str, catalog: Catalog) -> Machine:
    """Return the machine of "16 vCPU" or "2x NAME".

    Raises CatalogError AW-CAT-01 (unknown accelerator), UsageError AW-USE-20 (a processor without its threads).
    """
    host = _HOST.match(on)
    if host is not None:
        cores = max(1, int(host[1]))
        return Machine(on, accelerator=None, accelerator_count=0, cores=cores, ram_bytes=_RAM_BYTES)
    count, name = name_resolution.parse_machine(on)
    accelerator = catalog.accelerator(name)
    if not accelerator.memory_bytes:
        hint = "state its threads instead, for example 64 vCPU"
        raise argument_error("AW-USE-20", f"{name} is a processor", "on", hint)
    return Machine(on, accelerator, max(count, 1), cores=_THREADS, ram_bytes=_RAM_BYTES)


def check_serving_layout(layout: str, devices: int) -> None:
    """Raises UsageError AW-USE-23 if a word of the layout is unknown, or if it needs more devices."""
    _check_words(layout, _POOL_WORD, "TP4 fp8")
    parsed = parse_layout(layout)
    if parsed is not None and parsed.total > devices:
        hint = f"state {parsed.total} devices in --on, or fewer ranks"
        message = f"the layout {layout[:100]!r} needs {parsed.total} devices, but {devices} are stated"
        raise argument_error("AW-USE-23", message, "layout", hint)


def check_training_layout(layout: str) -> None:
    """Raises UsageError AW-USE-23 if a word of the layout is unknown."""
    _check_words(layout, _TRAINING_WORD, "FSDP8 micro 1 bf16")


def _check_words(layout: str, further_words: re.Pattern[str], example: str) -> None:
    """Raises UsageError AW-USE-23 if a word is neither ranks nor a number format nor one of `further_words`."""
    spaced = _LAYOUT_SPACE.sub(r"\1\2", layout).replace(",", " ")
    for word in spaced.split():
        is_rank_or_format = parse_layout(word) is not None or parse_precision(word, "").stated
        if not is_rank_or_format and not further_words.match(word):
            hint = f"write ranks and a number format, for example '{example}'"
            raise argument_error("AW-USE-23", f"{word[:100]!r} is no part of a layout", "layout", hint)


def check_sizes(**sizes: float) -> None:
    """Raises UsageError AW-USE-20 for a size that is not above 0."""
    for field, size in sizes.items():
        if not 0 < size < LARGEST_SIZE:
            raise argument_error("AW-USE-20", f"{field} is {size}, which is not a size", field, "give a number above 0")


def check_positive(name: str, value: float | None) -> None:
    """Raises UsageError AW-USE-23 for a stated value that is not above 0."""
    if value is not None and not 0 < value <= LARGEST_COUNT:
        hint = f"give {name} a number above 0"
        raise argument_error("AW-USE-23", f"{name} is {value:g}, which is not positive", name, hint)
