"""Tables of models that generate no chat text: embedders, rerankers, speech, document parsing; and image inputs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from archwright.catalog.tables import parsers, records
from archwright.catalog.tables.csv_table import CsvRow, read_rows
from archwright.catalog.tables.parsers import row_parser
from archwright.catalog.tables.yaml_documents import read_document
from archwright.contract.record import Record

# Fields of ModelSpec that these models' makers do not state, and that no rule of sizing uses for them.
_NO_SHAPE: Mapping[str, Any] = {"attention": "", "context_tokens": 0, "hidden": 0, "vocabulary": 0}


class SpecialistRule(Record):
    """How the models of a kind of work are compared; the fields are explained in specialist_rules.yaml."""

    kind: str
    noun: str
    label: str
    benchmarks: tuple[str, ...]
    other_benchmarks: tuple[str, ...]
    margin: float
    largest: float
    source: str
    native: tuple[str, ...] = ()
    fallback: tuple[str, ...] = ()
    fallback_label: str = ""
    errors: bool = False


class PublishedRateModel(records.ModelSpec):
    """A model sized by a published rate: seconds of audio, or pages, per second on one device `reference`, in batches.

    Low and high are the extremes of the published tests. `upstream` is how its maker serves it. The fields of its
    architecture are 0, since no rule uses them.
    """

    rate_per_s: float
    rate_low_per_s: float
    rate_high_per_s: float
    reference: str
    upstream: str


class ImageModel(records.Fact):
    """How a model counts an image: `pixels_per_token` (None: always `tokens_most`), between least and most.

    The encoder reads `patches_per_token` patches for each token.
    """

    model: str
    pixels_per_token: float | None
    tokens_least: float
    tokens_most: float
    encoder_parameters: float | None
    patches_per_token: float | None

    def count_tokens(self, pixels: float) -> float:
        """Return the tokens of an image."""
        counted = self.tokens_most if self.pixels_per_token is None else pixels / self.pixels_per_token
        return min(max(counted, self.tokens_least), self.tokens_most)

    def encoder_load(self, active_parameters: float) -> float:
        """Return the encoder's arithmetic for a token, as a share of the language model's for the same token."""
        return (self.encoder_parameters or 0.0) * (self.patches_per_token or 0.0) / active_parameters


def read_specialist_rules(folder: Path) -> list[SpecialistRule]:
    return read_document(folder / "specialist_rules.yaml", list[SpecialistRule])


def read_encoders(folder: Path, file: str) -> list[records.ModelSpec]:
    """Read embedders or rerankers with their languages and scores."""
    sets, scores = _read_language_sets(folder), _read_scores(folder)
    return [
        row.to_record(records.ModelSpec, quality=scores.get(name, {}), languages=_read_languages(row, sets))
        for row in read_rows(folder, file)
        if (name := row.required_text("model_id"))
    ]


def read_published_rate_models(folder: Path, file: str) -> list[PublishedRateModel]:
    sets, scores, found = _read_language_sets(folder), _read_scores(folder), list[PublishedRateModel]()
    for row in read_rows(folder, file):
        size = row.required_number("params_total_b", parsers.GIGA)
        given = {"parameters": round(size), "active_parameters": round(size), **_NO_SHAPE}
        given |= {"quality": scores.get(row.required_text("model_id"), {}), "languages": _read_languages(row, sets)}
        found.append(row.to_record(PublishedRateModel, **given))
    return found


@row_parser("image_models.csv")
def read_image_models(row: CsvRow) -> ImageModel:
    return row.to_record(ImageModel)


@row_parser("specialist_quality.csv")
def read_specialist_scores(row: CsvRow) -> records.QualityScore:
    known, name = row.one_of("independent", records.Independent), row.required_text("benchmark").replace("-", "_")
    return row.to_record(records.QualityScore, benchmark=name, independent=known, rows=1)


def _read_scores(folder: Path) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for score in read_specialist_scores(folder):
        found.setdefault(score.model, {})[score.benchmark] = score.score
    return found


def _read_language_sets(folder: Path) -> dict[str, tuple[str, ...]]:
    rows = read_rows(folder, "language_sets.csv")
    return {row.required_text("id"): tuple(row.required_text("languages").split()) for row in rows}


def _read_languages(row: CsvRow, sets: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return ISO 639-1 codes; a longer word names a set."""
    names = row.required_text("languages").split()
    for name in names:
        if len(name) > len("en") and name not in sets:
            raise row.cell_error("languages", "a set that language_sets.csv does not have")
    return tuple(sorted({code for name in names for code in sets.get(name, (name,))}))
