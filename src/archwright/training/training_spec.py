"""The training spec: task, data set, steps. The same spec over the same version gives the same result.

Limits protect the machine from mistyped numbers: attention memory grows with the square of a step's tokens.
"""

import difflib
import re
from pathlib import Path
from typing import Annotated

import msgspec

from archwright import specfile
from archwright.contract.lineage import Task
from archwright.contract.record import Record
from archwright.engines.pickles import PICKLE_SUFFIXES, format_conversion_command
from archwright.errors import ErrorLocation, TrainError

Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
PositiveShare = Annotated[float, msgspec.Meta(gt=0.0, le=1.0)]
Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
NonEmptyText = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class Columns(Record):
    """Column names. A set `text` replaces prompt and completion; no `features` means all numeric ones."""

    prompt: NonEmptyText = "prompt"
    completion: NonEmptyText = "completion"
    text: NonEmptyText | None = None
    label: NonEmptyText = "label"
    features: tuple[NonEmptyText, ...] = ()


class ImageSpec(Record):
    """The picture that a row's features form: row by row, channels last; values are divided by `scale`."""

    height: Annotated[int, msgspec.Meta(ge=1, le=4096)]
    width: Annotated[int, msgspec.Meta(ge=1, le=4096)]
    channels: Annotated[int, msgspec.Meta(ge=1, le=16)] = 1
    scale: Annotated[float, msgspec.Meta(gt=0.0, le=1e9)] = 1.0

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.height, self.width, self.channels


class TrainSpec(Record):
    """`learning_rate` None is the task's default, `threads` None the usable cores less one.

    `held_out` is the share of rows for evaluation. `margin` is the largest loss of quality against the version in
    production that still counts as not worse: balanced accuracy, or nats per token of a text model; None is the task's
    default.
    """

    name: Name
    task: Task
    dataset: NonEmptyText
    base: Annotated[str, msgspec.Meta(max_length=400)] = ""
    steps: Count = 40
    tokens_per_step: Annotated[int, msgspec.Meta(ge=16, le=8192)] = 512
    rows_per_step: Count = 64
    learning_rate: PositiveShare | None = None
    rank: Annotated[int, msgspec.Meta(ge=1, le=256)] = 8
    alpha: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 16
    seed: Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)] = 1
    workers: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    checkpoint_every_steps: Count = 10
    held_out: Annotated[float, msgspec.Meta(ge=0.0, le=0.9)] = 0.1
    margin: PositiveShare | None = None
    threads: Annotated[int, msgspec.Meta(ge=1, le=256)] | None = None
    columns: Columns = Columns()
    image: ImageSpec | None = None


def read_spec(path: Path) -> TrainSpec:
    """Raises TrainError AW-TRN-01 (not a spec), AW-TRN-02 (contradicting fields), AW-TRN-03 (a pickle)."""
    spec = specfile.read_spec(path, TrainSpec, _spec_error)
    check_spec(spec, str(path))
    return spec


def check_spec(spec: TrainSpec, file: str | None = None) -> None:
    """Check rules over several fields. Raises TrainError AW-TRN-02, AW-TRN-03."""
    if spec.base.lower().endswith(PICKLE_SUFFIXES):
        message = f"the base {spec.base} is a pickle: loading a pickle runs the code in it"
        hint = f"name a base of `archwright models list`; convert a file: {format_conversion_command(Path(spec.base))}"
        raise TrainError("AW-TRN-03", message, where=ErrorLocation(file, None, "base"), hint=hint)
    text, image, tabular = (spec.task == task for task in ("text-lora", "image-classifier", "tabular-classifier"))
    for wrong, field, message, hint in (
        (text and not spec.base, "base", "text-lora needs a base model", "base: SmolLM2-135M-Instruct"),
        (not text and spec.base, "base", f"{spec.task} has no base model", "remove base"),
        (image and spec.image is None, "image", "the shape of the pictures is missing", "image: {height: 8, width: 8}"),
        (tabular and spec.workers > 1, "workers", "a tabular classifier trains on one worker", "workers: 1"),
        (not image and spec.image is not None, "image", f"{spec.task} has no pictures", "remove image"),
    ):
        if wrong:
            raise TrainError("AW-TRN-02", message, where=ErrorLocation(file, None, field), hint=hint)


def _spec_error(message: str, where: ErrorLocation) -> TrainError:
    unknown = re.search(r"unknown field `(.+?)`", message)
    known = [name for kind in (TrainSpec, Columns, ImageSpec) for name in kind.__struct_fields__]
    near = tuple(difflib.get_close_matches(unknown.group(1), known, 3, 0.5)) if unknown else ()
    hint = f"did you mean {near[0]}?" if near else "see the fields and their limits in docs/training.md"
    if "Invalid enum value" in message:
        hint = "task: text-lora, image-classifier or tabular-classifier"
    elif "missing required field" in message:
        hint = "add the required fields: name, task and dataset"
    return TrainError("AW-TRN-01", f"not a training spec: {message}", where=where, hint=hint, nearest=near)
