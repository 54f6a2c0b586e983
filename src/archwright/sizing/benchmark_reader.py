"""Reads rows of a benchmark table: serving or training, by its columns; ragged, hostile or unfinished ones too.

A measured column is never read here. A cell that is no number counts as unstated and makes the row weak.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from archwright.errors import ErrorLocation, PlanFileError, from_os_error
from archwright.sizing.inference.serving_prediction import ServingQuery
from archwright.sizing.training.token_throughput import TrainingQuery

BenchmarkKind = Literal["serving", "training"]
Cells = Mapping[str, str]

REQUIRED_COLUMNS: dict[BenchmarkKind, frozenset[str]] = {
    "serving": frozenset({"row_id", "model", "accelerator", "scenario"}),
    "training": frozenset({"row_id", "model", "accelerator", "seq_len"}),
}
LONGEST_CELL = 1_000_000
MOST_NUMBER = 1e15
COLUMNS_HINT = "see docs/accuracy.md for the columns"


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, cells) of each row; cells beyond the header are dropped. Raises PlanFileError AW-FILE-2x."""
    csv.field_size_limit(LONGEST_CELL)
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as handle:
            reader = csv.DictReader((line.replace("\0", "") for line in handle), restval="")
            for cells in reader:
                yield reader.line_num, {str(key): value for key, value in cells.items() if isinstance(value, str)}
    except OSError as error:
        raise from_os_error(error) from error
    except csv.Error as error:
        where, hint = ErrorLocation(str(path)), "one line a row, a header first"
        raise PlanFileError("AW-FILE-21", f"not a CSV table: {error}", where=where, hint=hint) from error


def empty_table_error(path: Path) -> PlanFileError:
    return PlanFileError("AW-FILE-22", "the table has no row", where=ErrorLocation(str(path)), hint=COLUMNS_HINT)


def detect_kind(columns: frozenset[str], path: Path) -> BenchmarkKind:
    """By the columns. Raises PlanFileError AW-FILE-20 when neither kind's are all there."""
    for kind, needed in REQUIRED_COLUMNS.items():
        if needed <= columns:
            return kind
    lacking = min((sorted(needed - columns) for needed in REQUIRED_COLUMNS.values()), key=len)
    message = f"neither a serving nor a training table: no column {', '.join(lacking)}"
    raise PlanFileError("AW-FILE-20", message, where=ErrorLocation(str(path), 1), hint=COLUMNS_HINT)


def read_text(cells: Cells, column: str) -> str:
    return cells.get(column, "").strip()


def read_number(cells: Cells, column: str, wrong: list[str]) -> float | None:
    """A finite, non-negative number; anything else is unstated and, if it was not empty, noted in `wrong`."""
    said = read_text(cells, column)
    if not said:
        return None
    try:
        found = float(said)
    except ValueError:
        found = math.nan
    if not (math.isfinite(found) and 0 <= found <= MOST_NUMBER):
        wrong.append(f"{column} is no usable number")
        return None
    return found


def parse_serving_query(cells: Cells) -> tuple[ServingQuery, list[str]]:
    """The question a serving row asks, and what is wrong with its numbers."""
    wrong: list[str] = []
    devices = read_number(cells, "n_accelerators", wrong)
    sent = read_number(cells, "concurrency_or_batch", wrong)
    parameters, active = read_number(cells, "params_b", wrong), read_number(cells, "active_params_b", wrong)
    return ServingQuery(
        model=read_text(cells, "model"),
        accelerator=read_text(cells, "accelerator"),
        devices=round(min(devices or 0, 1e6)),
        parallelism=read_text(cells, "parallelism")[:1000],
        precision=read_text(cells, "precision")[:1000],
        engine=read_text(cells, "engine")[:1000],
        scenario=read_text(cells, "scenario"),
        concurrency=sent or None,
        input_tokens=_cap_length(read_number(cells, "input_len", wrong)),
        output_tokens=_cap_length(read_number(cells, "output_len", wrong)),
        parameters=parameters and parameters * 1e9,
        active_parameters=active and active * 1e9,
        ttft_statistic=read_text(cells, "ttft_stat"),
        tpot_statistic=read_text(cells, "tpot_stat"),
    ), wrong


def _cap_length(tokens: float | None) -> float | None:
    return None if tokens is None else min(tokens, 1e8)


def parse_training_query(cells: Cells) -> tuple[TrainingQuery, list[str]]:
    """The question a training row asks, and what is wrong with its numbers."""
    wrong: list[str] = []
    devices, tokens = read_number(cells, "n_accelerators", wrong), read_number(cells, "tokens_b", wrong)
    parameters, active = read_number(cells, "params_b", wrong), read_number(cells, "active_params_b", wrong)
    return TrainingQuery(
        model=read_text(cells, "model"),
        accelerator=read_text(cells, "accelerator"),
        devices=round(min(devices or 0, 1e6)),
        parameters=parameters and parameters * 1e9,
        active_parameters=active and active * 1e9,
        sequence_tokens=_cap_length(read_number(cells, "seq_len", wrong)),
        batch_tokens=read_number(cells, "global_batch_tokens", wrong),
        tokens=tokens and tokens * 1e9,
        precision=read_text(cells, "precision")[:1000],
        parallelism=read_text(cells, "parallelism")[:1000],
        recompute=read_text(cells, "activation_recompute")[:100],
        framework=read_text(cells, "framework")[:100],
    ), wrong
