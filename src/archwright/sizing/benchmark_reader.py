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
from archwright.sizing.inference.serving_prediction import Serving
from archwright.sizing.training.token_throughput import Training

Kind = Literal["serving", "training"]
Cells = Mapping[str, str]

NEEDED: dict[Kind, frozenset[str]] = {
    "serving": frozenset({"row_id", "model", "accelerator", "scenario"}),
    "training": frozenset({"row_id", "model", "accelerator", "seq_len"}),
}
MOST_CELL = 1_000_000
MOST_NUMBER = 1e15


def rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, cells) of each row; cells beyond the header are dropped. Raises PlanFileError AW-FILE-2x."""
    csv.field_size_limit(MOST_CELL)
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as handle:
            reader = csv.DictReader((line.replace("\0", "") for line in handle), restval="")
            for cells in reader:
                yield reader.line_num, {str(key): value for key, value in cells.items() if isinstance(value, str)}
    except OSError as error:
        raise from_os_error(error) from error
    except csv.Error as error:
        raise PlanFileError(
            "AW-FILE-21",
            f"not a CSV table: {error}",
            where=ErrorLocation(str(path)),
            hint="one line a row, a header first",
        ) from error


def empty(path: Path) -> PlanFileError:
    """A header alone, or nothing."""
    return PlanFileError(
        "AW-FILE-22",
        "the table has no row",
        where=ErrorLocation(str(path)),
        hint="see docs/accuracy.md for the columns",
    )


def kind_of(columns: frozenset[str], path: Path) -> Kind:
    """By the columns. Raises PlanFileError AW-FILE-20 when neither kind's are all there."""
    for kind, needed in NEEDED.items():
        if needed <= columns:
            return kind
    lacking = min((sorted(needed - columns) for needed in NEEDED.values()), key=len)
    raise PlanFileError(
        "AW-FILE-20",
        f"neither a serving nor a training table: no column {', '.join(lacking)}",
        where=ErrorLocation(str(path), 1),
        hint="see docs/accuracy.md for the columns",
    )


def text(cells: Cells, column: str) -> str:
    return cells.get(column, "").strip()


def number(cells: Cells, column: str, wrong: list[str]) -> float | None:
    """A finite, non-negative number; anything else is unstated and, if it was not empty, noted in `wrong`."""
    said = text(cells, column)
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


def serving_of(cells: Cells) -> tuple[Serving, list[str]]:
    """The question a serving row asks, and what is wrong with its numbers."""
    wrong: list[str] = []
    devices = number(cells, "n_accelerators", wrong)
    sent = number(cells, "concurrency_or_batch", wrong)
    parameters, active = number(cells, "params_b", wrong), number(cells, "active_params_b", wrong)
    return Serving(
        model=text(cells, "model"),
        accelerator=text(cells, "accelerator"),
        devices=round(min(devices or 0, 1e6)),
        parallelism=text(cells, "parallelism")[:1000],
        precision=text(cells, "precision")[:1000],
        engine=text(cells, "engine")[:1000],
        scenario=text(cells, "scenario"),
        concurrency=sent or None,
        input_tokens=_length(number(cells, "input_len", wrong)),
        output_tokens=_length(number(cells, "output_len", wrong)),
        parameters=parameters and parameters * 1e9,
        active_parameters=active and active * 1e9,
        ttft_statistic=text(cells, "ttft_stat"),
        tpot_statistic=text(cells, "tpot_stat"),
    ), wrong


def _length(tokens: float | None) -> float | None:
    return None if tokens is None else min(tokens, 1e8)


def training_of(cells: Cells) -> tuple[Training, list[str]]:
    """The question a training row asks, and what is wrong with its numbers."""
    wrong: list[str] = []
    devices, tokens = number(cells, "n_accelerators", wrong), number(cells, "tokens_b", wrong)
    parameters, active = number(cells, "params_b", wrong), number(cells, "active_params_b", wrong)
    return Training(
        model=text(cells, "model"),
        accelerator=text(cells, "accelerator"),
        devices=round(min(devices or 0, 1e6)),
        parameters=parameters and parameters * 1e9,
        active_parameters=active and active * 1e9,
        sequence_tokens=_length(number(cells, "seq_len", wrong)),
        batch_tokens=number(cells, "global_batch_tokens", wrong),
        tokens=tokens and tokens * 1e9,
        precision=text(cells, "precision")[:1000],
        parallelism=text(cells, "parallelism")[:1000],
        recompute=text(cells, "activation_recompute")[:100],
        framework=text(cells, "framework")[:100],
    ), wrong
