"""Reader of benchmark tables (serving or training, by their columns), robust against ragged and malformed rows.

The queries never use measured columns. A cell that is not a number counts as unstated and makes the row weak.
"""

import csv
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from archwright.errors import ErrorLocation, PlanFileError, from_os_error
from archwright.sizing.inference.processor_speed import HostReport
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
# Columns about the processor, as a probe writes them.
HOST_COLUMNS = ("threads_used", "bw_read_all_bytes_s", "numa_nodes", "base_hz", "l3_bytes")
MOST_THREADS = 4096
COLUMNS_HINT = "see docs/accuracy.md for the columns"


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line, cells) of each row; cells beyond the header are dropped. Raises PlanFileError AW-FILE-21."""
    csv.field_size_limit(LONGEST_CELL)
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as handle:
            reader = csv.DictReader((line.replace("\0", "") for line in handle), restval="")
            for cells in reader:
                yield reader.line_num, {str(key): value for key, value in cells.items() if isinstance(value, str)}
    except OSError as error:
        raise from_os_error(error) from error
    except csv.Error as error:
        where, hint = ErrorLocation(str(path)), "write a CSV file with a header line and one line per row"
        raise PlanFileError("AW-FILE-21", f"the file is not a CSV table: {error}", where=where, hint=hint) from error


def detect_kind(columns: frozenset[str], path: Path) -> BenchmarkKind:
    """Return the kind by its required columns. Raises PlanFileError AW-FILE-20 if columns of both kinds are missing."""
    for kind, needed in REQUIRED_COLUMNS.items():
        if needed <= columns:
            return kind
    missing = min((sorted(needed - columns) for needed in REQUIRED_COLUMNS.values()), key=len)
    message = f"the file is neither a serving nor a training table: no column {', '.join(missing)}"
    raise PlanFileError("AW-FILE-20", message, where=ErrorLocation(str(path), 1), hint=COLUMNS_HINT)


def read_text(cells: Cells, column: str) -> str:
    return cells.get(column, "").strip()


def read_number(cells: Cells, column: str, wrong: list[str]) -> float | None:
    """Return a finite, non-negative number, else None; a cell that is not such a number is noted in `wrong`."""
    text = read_text(cells, column)
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and 0 <= number <= MOST_NUMBER):
        wrong.append(f"{column} is not a usable number")
        return None
    return number


def parse_serving_query(cells: Cells) -> tuple[ServingQuery, list[str]]:
    """Return the query of a serving row, and what is wrong with its numbers."""
    wrong: list[str] = []
    return ServingQuery(
        **_read_common_fields(cells, wrong),
        engine=read_text(cells, "engine")[:1000],
        scenario=read_text(cells, "scenario"),
        concurrency=read_number(cells, "concurrency_or_batch", wrong) or None,
        input_tokens=_read_length(cells, "input_len", wrong),
        output_tokens=_read_length(cells, "output_len", wrong),
        ttft_statistic=read_text(cells, "ttft_stat"),
        tpot_statistic=read_text(cells, "tpot_stat"),
        requests=read_number(cells, "requests", wrong) or None,
        slots=read_number(cells, "server_max_num_seqs", wrong) or None,
        host=read_host_report(cells),
    ), wrong


# The widest instruction set of the engines' kernels whose column says 1.
_INSTRUCTION_SETS = {
    "amx_int8": "amx",
    "avx512_bf16": "avx512-bf16",
    "avx512_vnni": "avx512-vnni",
    "avx2": "avx2",
    "neon": "neon",
}


def read_host_report(cells: Cells) -> HostReport:
    """Return what the row's own columns say of its processor."""
    numbers = {column: read_number(cells, column, []) or 0.0 for column in HOST_COLUMNS}
    sets = (name for column, name in _INSTRUCTION_SETS.items() if read_text(cells, column) == "1")
    return HostReport(
        threads=round(min(numbers["threads_used"], MOST_THREADS)),
        instruction_set=next(sets, ""),
        bandwidth_bytes_per_s=numbers["bw_read_all_bytes_s"],
        memory_nodes=round(min(numbers["numa_nodes"], MOST_THREADS)),
        clock_hz=numbers["base_hz"],
        cache_bytes=numbers["l3_bytes"],
    )


def parse_training_query(cells: Cells) -> tuple[TrainingQuery, list[str]]:
    """Return the query of a training row, and what is wrong with its numbers."""
    wrong: list[str] = []
    tokens = read_number(cells, "tokens_b", wrong)
    return TrainingQuery(
        **_read_common_fields(cells, wrong),
        sequence_tokens=_read_length(cells, "seq_len", wrong),
        batch_tokens=read_number(cells, "global_batch_tokens", wrong),
        tokens=tokens and tokens * 1e9,
        recompute=read_text(cells, "activation_recompute")[:100],
        framework=read_text(cells, "framework")[:100],
    ), wrong


def _read_common_fields(cells: Cells, wrong: list[str]) -> dict[str, Any]:
    devices = read_number(cells, "n_accelerators", wrong)
    parameters, active = read_number(cells, "params_b", wrong), read_number(cells, "active_params_b", wrong)
    return {
        "model": read_text(cells, "model"),
        "accelerator": read_text(cells, "accelerator"),
        "devices": round(min(devices or 0, 1e6)),
        "parallelism": read_text(cells, "parallelism")[:1000],
        "precision": read_text(cells, "precision")[:1000],
        "parameters": parameters and parameters * 1e9,
        "active_parameters": active and active * 1e9,
    }


def _read_length(cells: Cells, column: str, wrong: list[str]) -> float | None:
    tokens = read_number(cells, column, wrong)
    return None if tokens is None else min(tokens, 1e8)
