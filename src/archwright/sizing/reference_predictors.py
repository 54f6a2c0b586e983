"""Predictors to compare with on the same rows: the roofline, constant shares of it, and files of other predictions.

Roofline: an answer token reads the weights and the cache once, or computes for as long; a prompt computes, or reads the
weights. Constant shares: the same at CONSTANT_SHARES of the stated rates, a common rule of thumb. Requests of a closed
loop produce their answers in TTFT + answer x TPOT. A file has the columns that `accuracy --rows-out` writes.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from archwright.catalog.benchmark_names import BenchmarkNameResolver
from archwright.catalog.tables.records import Accelerator
from archwright.errors import CatalogError, UsageError, argument_error
from archwright.sizing import benchmark_reader
from archwright.sizing.benchmark_reader import Cells
from archwright.sizing.inference import processor_speed, serving_prediction
from archwright.sizing.inference.serving_prediction import ServingQuery
from archwright.sizing.model.engine_memory import weights_bytes
from archwright.sizing.model.numeric_precision import parse_precision
from archwright.sizing.step_time.extrapolation import HOST_KIND

ROOFLINE = "roofline"
CONSTANT_SHARE = "constant-share"
PREDICTED = "pred_"
# A faster answer than this is a missing figure.
SHORTEST_S = 1e-9


class RateShares(NamedTuple):
    """Shares of the stated bandwidth and of the stated FLOP rate that an engine reaches."""

    bandwidth: float
    compute: float


FULL_SHARES = RateShares(bandwidth=1.0, compute=1.0)
CONSTANT_SHARES = RateShares(bandwidth=0.6, compute=0.5)
SHARES = {ROOFLINE: FULL_SHARES, CONSTANT_SHARE: CONSTANT_SHARES}

# Predicted values of the rows of a table, by measured column.
Guess = Mapping[str, float]
# Predicts a row, given its cells; an empty guess if it cannot.
ReferencePredictor = Callable[[Cells], Guess]


def list_predictors(text: str, subjects: BenchmarkNameResolver) -> dict[str, ReferencePredictor]:
    """Return the predictors of "roofline,constant-share,NAME=FILE.csv" by name.

    Raises UsageError AW-USE-23 for another word, PlanFileError AW-FILE-21 for a file that is not a table."""
    predictors: dict[str, ReferencePredictor] = {}
    for word in text.split(","):
        name, _, file = word.strip().partition("=")
        if file:
            predictors[name] = PredictionFile(Path(file))
        elif name in SHARES:
            predictors[name] = RooflinePredictor(SHARES[name], subjects)
        elif name:
            raise _unknown_predictor_error(name)
    return predictors


def _unknown_predictor_error(name: str) -> UsageError:
    known = ", ".join(SHARES)
    hint = f"write {known}, or NAME=FILE.csv with a file of predictions"
    return argument_error("AW-USE-23", f"{name[:100]!r} is no predictor", "against", hint)


class PredictionFile:
    """Predictions of another tool by row_id, in the columns of `accuracy --rows-out`."""

    def __init__(self, path: Path) -> None:
        self._guesses: dict[str, dict[str, float]] = {}
        for _, cells in benchmark_reader.read_rows(path):
            row_id = benchmark_reader.read_text(cells, "row_id")
            self._guesses[row_id] = _read_predicted_values(cells)

    def __call__(self, cells: Cells) -> Guess:
        row_id = benchmark_reader.read_text(cells, "row_id")
        return self._guesses.get(row_id, {})


def _read_predicted_values(cells: Cells) -> dict[str, float]:
    guess: dict[str, float] = {}
    for column in cells:
        value = benchmark_reader.read_number(cells, column, [])
        if column.startswith(PREDICTED) and value:
            guess[column.removeprefix(PREDICTED)] = value
    return guess


class RooflinePredictor:
    """The roofline of a serving row at `shares` of the stated rates."""

    def __init__(self, shares: RateShares, subjects: BenchmarkNameResolver) -> None:
        self._shares = shares
        self._subjects = subjects

    def __call__(self, cells: Cells) -> Guess:
        query, _ = benchmark_reader.parse_serving_query(cells)
        try:
            accelerator = self._subjects.accelerator(query.accelerator)
            if accelerator.kind == HOST_KIND:
                return self._predict_on_processor(query, accelerator)
            return self._predict_on_devices(query)
        except (CatalogError, ArithmeticError):
            return {}

    def _predict_on_processor(self, query: ServingQuery, accelerator: Accelerator) -> Guess:
        """Return the memory's time of an answer token: rows of processors state no FLOP rate."""
        counts = (query.parameters, query.active_parameters)
        model, _ = serving_prediction.resolve_model(query.model, counts, self._subjects)
        facts = processor_speed.describe_processor(accelerator, max(query.devices, 1), query.host)
        if facts is None or not query.output_tokens:
            return {}
        bits = parse_precision(query.precision, query.model).expert_bits
        context = query.input_tokens or 0.0
        work = processor_speed.describe_work("decode", model, weights_bytes(model, bits), context=context)
        bandwidth = facts.bandwidth_bytes_per_s * self._shares.bandwidth
        return {"tpot_ms": work.bytes_read / bandwidth * 1e3}

    def _predict_on_devices(self, query: ServingQuery) -> Guess:
        case = serving_prediction.resolve_deployment(query, self._subjects).case
        bandwidth = self._shares.bandwidth
        compute = self._shares.compute
        tpot_s = max(case.memory_s / bandwidth, case.compute_s / compute, SHORTEST_S)
        ttft_s = max(case.read_s / compute, case.read_memory_s / bandwidth)
        guess: dict[str, float] = {}
        if ttft_s > 0:
            guess["ttft_ms"] = ttft_s * 1e3
        if case.answer > 1:
            request_s = ttft_s + case.answer * tpot_s
            answers_per_s = case.requests * case.ranks / request_s
            guess["tpot_ms"] = tpot_s * 1e3
            guess["throughput_tok_s"] = answers_per_s * case.answer
        elif ttft_s > 0:
            guess["throughput_tok_s"] = case.prompt / ttft_s
        return guess
