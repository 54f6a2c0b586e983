"""A recipe: a YAML file with the source of a data set and the steps that produce it, in order."""

from hashlib import sha256
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec

from archwright import specfile
from archwright.contract.lineage import DatasetVersion
from archwright.contract.record import Record, replace
from archwright.errors import DataError, ErrorLocation
from archwright.home import Home
from archwright.lake.governance.expectations import ExpectationRule, list_expectations
from archwright.lake.governance.policy import read_policy
from archwright.lake.part_runner import PreparedStep
from archwright.lake.passages.chunking import ChunkText
from archwright.lake.passages.embedding import EmbedText
from archwright.lake.steps.decontamination import Decontaminate
from archwright.lake.steps.exact_duplicates import DropDuplicates
from archwright.lake.steps.near_duplicates import DropNearDuplicates
from archwright.lake.steps.python_function import PythonFunction
from archwright.lake.steps.step import Step, StepSources
from archwright.lake.steps.token_shards import TokenShards
from archwright.lake.text_steps.language_identification import DetectLanguage
from archwright.lake.text_steps.quality_filters import FilterQuality
from archwright.lake.text_steps.redaction import Redact
from archwright.lake.text_steps.row_filters import DropEmpty, DropShort
from archwright.lake.text_steps.text_normalisation import NormaliseText
from archwright.store import Store


class RecipeStep(Record):
    """One step: exactly one field is set. A field is the step's name in the recipe."""

    drop_duplicates: DropDuplicates | None = msgspec.field(name="drop-duplicates", default=None)
    drop_near_duplicates: DropNearDuplicates | None = msgspec.field(name="drop-near-duplicates", default=None)
    decontaminate: Decontaminate | None = None
    redact: Redact | None = None
    drop_empty: DropEmpty | None = msgspec.field(name="drop-empty", default=None)
    drop_short: DropShort | None = msgspec.field(name="drop-short", default=None)
    filter_quality: FilterQuality | None = msgspec.field(name="filter-quality", default=None)
    detect_language: DetectLanguage | None = msgspec.field(name="detect-language", default=None)
    normalise_text: NormaliseText | None = msgspec.field(name="normalise-text", default=None)
    python: PythonFunction | None = None
    chunk: ChunkText | None = None
    embed: EmbedText | None = None


class Recipe(Record):
    """`token_shards` are written beside the version, for training on packed tokens.

    `expectations` block the version; None for those of the version before.
    """

    source: str = msgspec.field(name="from")
    into: str
    steps: tuple[RecipeStep, ...]
    token_shards: TokenShards | None = msgspec.field(name="token-shards", default=None)
    expectations: tuple[ExpectationRule, ...] | None = None


STEP_NAMES = tuple(name.replace("_", "-") for name in RecipeStep.__struct_fields__)


def read_recipe(path: Path) -> Recipe:
    """Paths in a recipe are relative to its folder. Raises DataError AW-DATA-21, AW-DATA-50 (an expectation)."""
    found = specfile.read_spec(path, Recipe, _recipe_error)
    list_expectations(found.expectations or ())
    if not found.steps:
        raise _recipe_error("the recipe has no step", ErrorLocation(str(path), None, "steps"))
    for place, item in enumerate(found.steps):
        if len(_get_options(item)) != 1:
            names = " and ".join(_get_options(item)) or "none"
            where = ErrorLocation(str(path), None, f"steps[{place}]")
            raise _recipe_error(f"each item is one step, this item has {names}", where)
    folder = path.resolve().parent
    located = [replace(item, **{name: step.locate(folder) for name, step in _list_steps(item)}) for item in found.steps]
    shards = found.token_shards and found.token_shards.locate(folder)
    return replace(found, steps=tuple(located), token_shards=shards)


def _list_steps(item: RecipeStep) -> list[tuple[str, Step]]:
    """The field of the item that is set, with its step."""
    values = ((name, getattr(item, name)) for name in item.__struct_fields__)
    return [(name, step) for name, step in values if step is not None]


def _get_options(item: RecipeStep) -> dict[str, Any]:
    return {name: options for name, options in msgspec.to_builtins(item).items() if options is not None}


def _recipe_error(message: str, where: ErrorLocation) -> DataError:
    hint = f"write from: NAME, into: NAME, steps: a list of {', '.join(STEP_NAMES)}: {{options}}"
    step = (where.field or "").rpartition("]")[2].strip(".").partition(".")[0]
    kind = get_type_hints(RecipeStep).get(step.replace("-", "_"))
    if kind is not None:
        hint = f"use the options of {step}: {', '.join(get_args(kind)[0].__struct_encode_fields__)}"
    return DataError("AW-DATA-21", message, where=where, hint=hint)


def encode_steps(recipe: Recipe) -> str:
    """The steps as one line of JSON, stored with a version to compare recipes."""
    steps = [_get_options(item) for item in recipe.steps]
    if recipe.token_shards is not None:
        steps.append({"token-shards": msgspec.to_builtins(recipe.token_shards)})
    return msgspec.json.encode(steps).decode()


def prepare_steps(recipe: Recipe, home: Home, store: Store, source: DatasetVersion) -> list[PreparedStep]:
    """Every step, ready for the rows of `source`. Raises DataError AW-DATA-22 and what steps raise."""
    tenant = read_policy(store, recipe.into, (source.dataset,)).tenant
    columns = source.columns
    prepared = []
    for item in recipe.steps:
        [(name, step)] = _list_steps(item)
        worker = step.prepare(StepSources(home, store, columns, tenant))
        columns = step.output_columns(columns)
        prepared.append(PreparedStep(name.replace("_", "-"), worker, columns))
    return prepared


def digest_work(source: DatasetVersion, recipe: Recipe, prepared: list[PreparedStep]) -> str:
    """Equal for equal work: parts of a run that was killed belong to a later run with the same digest."""
    work = ForkingPickler.dumps((source.id, source.content_sha256, encode_steps(recipe), prepared))
    return sha256(work).hexdigest()[:32]
