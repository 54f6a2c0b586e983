"""Sizing without a plan: `predict serving`, `predict training`, `accuracy`."""

import re
from pathlib import Path

from archwright import settings
from archwright.api import local_prediction, option_prediction, rate_prediction
from archwright.api.argument_errors import argument_error
from archwright.catalog.benchmark_names import BenchmarkNameResolver
from archwright.catalog.load import load_catalog
from archwright.catalog.tables import name_resolution
from archwright.catalog.tables.records import Accelerator
from archwright.contract.decision import PilotRun
from archwright.contract.record import replace
from archwright.contract.sizing_prediction import SizingPrediction
from archwright.errors import UsageError
from archwright.home import locate_home, write_atomic
from archwright.plan.evidence.pilot_runs import find_pilot
from archwright.sizing import accuracy as scoring
from archwright.sizing.inference import serving_prediction
from archwright.sizing.inference.serving_prediction import DeploymentPrediction, ServingQuery
from archwright.sizing.model import numeric_precision
from archwright.sizing.model.parallel_layout import parse_layout
from archwright.sizing.step_time import fitted_tables
from archwright.sizing.step_time.extrapolation import HOST_KIND, pair_engine
from archwright.sizing.training import token_throughput, training_prediction

# Each count is at least 1.
_POSITIVE_INTEGER = r"0*[1-9]\d{0,8}"
_LENGTHS = rf"\s*x\s*({_POSITIVE_INTEGER})\s*\+\s*({_POSITIVE_INTEGER})\s*$"
_LOAD = re.compile(rf"^\s*({_POSITIVE_INTEGER}|max){_LENGTHS}", re.IGNORECASE)
_RATE = re.compile(rf"^\s*(\d{{1,9}}(?:\.\d{{1,6}})?)\s*/\s*s{_LENGTHS}", re.IGNORECASE)
_BATCH = re.compile(rf"^\s*({_POSITIVE_INTEGER})\s*x\s*({_POSITIVE_INTEGER})\s*$", re.IGNORECASE)
_SIZE = re.compile(r"^\s*(\d{1,4}(?:\.\d{1,4})?)\s*([mbt])\s*$", re.IGNORECASE)
# "TP 4" and "4 bit" are one word of a layout; "disagg" and the parts of "P:1x(TP4 DP1)" stand for pools.
_LAYOUT_SPACE = re.compile(r"(TP|PP|DP|EP|\d)\s+(\d|bit)", re.IGNORECASE)
_POOL_WORD = re.compile(r"disagg|[PD]:\d+x\(?$", re.IGNORECASE)
_TRAINING_WORD = re.compile(
    r"((CP|VP|MBS|GA|FSDP|DDP|ZeRO|micro|accum)-?\d*|\d+|full|none|selective|recompute|q?lora|scratch)$", re.IGNORECASE
)
LARGEST_COUNT = 1e18
DEFAULT_LOAD, LOCAL_LOAD = "max x 1024 + 1024", "1 x 512 + 128"
_SIZES = {"m": 1e6, "b": 1e9, "t": 1e12}
_DEFINITIONS = {
    "tpot_s": "mean time between tokens of an answer in a closed loop, first token excluded",
    "ttft_s": "mean time from request to first token in a closed loop, first burst and queue included",
    "tokens_per_s": "output tokens/s of all the devices together",
}
_PHYSICS = "memory, compute and launches of a step, with prompts read between decode steps"
_FORMULA = f"sizing/step_time/step_time_model.py: {_PHYSICS}"
_HOST_FORMULA = (
    "sizing/inference/cpu_inference.py: roofline of the engine's efficiency row, with prompts read between decode steps"
)
_LOOP_DEFINITION = "over the requests of the same closed loop"


def predict_serving(
    model: str, *, on: str, load: str = "", engine: str = "", layout: str = "", options: str = ""
) -> SizingPrediction:
    """Predict TPOT, TTFT (means and percentiles over requests) and output tokens/s of `model` on `on` ("4x NAME").

    `on`: "this-machine" predicts the embedded engine here with MODEL or MODEL:QUANTISATION, also memory, cold start and
    download. `load`: requests in flight x prompt + answer tokens, or `max x ...` for as many requests as fit; `2.5/s x
    ...` is simulated as random arrivals (default: `max x 1024 + 1024`; on this machine `1 x 512 + 128`). `layout`:
    ranks and number format ("TP4 fp8"). `options` of the engine: prefix=0.4,chunk=2048,speculation=3,kv=fp8,adapters=4.
    Without a format: the published one, or eight bits if the device multiplies them faster than 16.
    Raises CatalogError AW-CAT-01 (unknown name), AW-CAT-10 (a name of several models), UsageError AW-USE-20 (not a
    load), AW-USE-21 (weights and one request's cache do not fit, or the layout cannot be simulated), AW-USE-23 (a word
    of the layout or of the options).
    """
    here = on.strip().lower() == local_prediction.THIS_MACHINE
    load = load or (LOCAL_LOAD if here else DEFAULT_LOAD)
    timed, found = _RATE.match(load), _LOAD.match(load)
    if timed is None and found is None:
        raise _invalid_load_error(load, "64x1024+512, max x 1024+512, or 2.5/s x 1024+512")
    sent, prompt, answer = (timed or found).groups()  # type: ignore[union-attr]
    offline = sent.lower() == "max"
    if here:
        if engine or layout or options:
            hint = "leave out --engine, --layout and --options"
            raise argument_error("AW-USE-23", "this machine is predicted with the embedded engine only", "engine", hint)
        rate, in_flight = float(sent) if timed else 0.0, 0 if timed or offline else int(sent)
        traffic = local_prediction.RequestTraffic(in_flight, rate, int(prompt), int(answer))
        return local_prediction.predict_on_this_machine(model, traffic)
    count, name = _parse_devices(on)
    subjects = _load_subjects()
    model = subjects.meant_model(model).id
    stated = numeric_precision.parse_precision(layout, model)
    usual = () if engine.strip() else _find_usual_engine(subjects.accelerator(name), subjects)
    query = ServingQuery(
        model=model,
        accelerator=name,
        devices=count,
        parallelism=_check_layout(layout, count),
        precision=stated.name if stated.stated else "",
        native_format=True,
        engine=engine.strip() or "".join(usual),
        scenario="offline_max" if offline else "fixed_concurrency_agg",
        concurrency=None if offline or timed else float(sent),
        input_tokens=float(prompt),
        output_tokens=float(answer),
    )
    chosen = option_prediction.parse_engine_options(options, model, subjects.catalog) if options else None
    if timed is not None:
        at_rate = rate_prediction.predict_at_rate(query, float(sent), subjects, chosen)
        return _explain_engine(replace(at_rate, pilot=_find_pilot(query, subjects)), usual)
    got = _predict_closed_loop(query, on, subjects)
    guesses = {"tpot_s": got.tpot_s, "ttft_s": None if offline else got.ttft_s, "tokens_per_s": got.tokens_per_s}
    guesses |= {} if offline else got.percentiles
    estimates = {key: guess for key, guess in guesses.items() if guess is not None}
    accelerator = subjects.accelerator(name)
    host = accelerator.kind == HOST_KIND
    predicted = SizingPrediction(
        model=subjects.model(model).id,
        accelerator=accelerator.id,
        devices=count,
        stratum=", ".join(part for part in (got.stratum, got.regime) if part),
        estimates=estimates,
        definitions={key: _DEFINITIONS.get(key, _LOOP_DEFINITION) for key in estimates},
        formula=_HOST_FORMULA if host else _FORMULA,
        sources=(
            *(() if host else (fitted_tables.load_table("serving").provenance.citation,)),
            subjects.model(model).source,
            accelerator.source,
        ),
        weak=got.weak,
        assumed=got.assumed,
        pilot=_find_pilot(query, subjects),
    )
    predicted = _explain_engine(predicted, usual)
    return predicted if chosen is None else option_prediction.apply_options(predicted, query, chosen, subjects)


def _check_layout(layout: str, devices: int) -> str:
    """Return `layout`. Raises UsageError AW-USE-23 if a word of it is unknown or it needs more devices."""
    _check_words(layout, _POOL_WORD, "TP4 fp8")
    placed = parse_layout(layout)
    if placed is not None and placed.total > devices:
        hint = f"state {placed.total} devices in --on, or fewer ranks"
        message = f"the layout {layout[:100]!r} needs {placed.total} devices, but {devices} are stated"
        raise argument_error("AW-USE-23", message, "layout", hint)
    return layout


def _check_words(layout: str, more: re.Pattern[str], example: str) -> None:
    """Raises UsageError AW-USE-23 if a word of the layout is neither ranks nor a number format nor one of `more`."""
    for word in _LAYOUT_SPACE.sub(r"\1\2", layout).replace(",", " ").split():
        known = parse_layout(word) is not None or numeric_precision.parse_precision(word, "").stated
        if not known and not more.match(word):
            hint = f"write ranks and a number format, for example '{example}'"
            raise argument_error("AW-USE-23", f"{word[:100]!r} is no part of a layout", "layout", hint)


def _find_usual_engine(accelerator: Accelerator, subjects: BenchmarkNameResolver) -> tuple[str, ...]:
    """Return the engine of the measured rows on accelerators of this vendor; empty if the default engine has some.

    A processor takes the engine for processors: that of its vendor's accelerators does not run there.
    """
    if accelerator.kind == HOST_KIND:
        return ()
    pairs = fitted_tables.load_table("serving").seen["engine_vendor"]
    if pair_engine(subjects.catalog.default_engine.id, accelerator) in pairs:
        return ()
    own = (name for name, _, vendor in (pair.partition(" ") for pair in pairs) if vendor == accelerator.vendor)
    return tuple(name for name in own if subjects.engine_family(name).id == name)[:1]


def _explain_engine(found: SizingPrediction, usual: tuple[str, ...]) -> SizingPrediction:
    texts = tuple(f"engine: {name}, as the measured devices of this vendor; --engine changes it" for name in usual)
    return replace(found, assumed=(*found.assumed, *texts))


def _find_pilot(query: ServingQuery, subjects: BenchmarkNameResolver) -> PilotRun | None:
    """Return the run that narrows the prediction; processors have rows of their own engine."""
    engine = subjects.engine_family(query.engine or subjects.catalog.default_engine.id).id
    accelerator = subjects.accelerator(query.accelerator)
    if accelerator.kind == HOST_KIND:
        return None
    return find_pilot(subjects.model(query.model), accelerator, engine, subjects.catalog, devices=query.devices)


def _predict_closed_loop(query: ServingQuery, on: str, subjects: BenchmarkNameResolver) -> DeploymentPrediction:
    """Raises UsageError AW-USE-21 if the weights and the cache of one request do not fit."""
    if subjects.accelerator(query.accelerator).kind == HOST_KIND:
        return serving_prediction.predict_deployment(query, subjects)
    found = serving_prediction.resolve_deployment(query, subjects)
    worker, context = found.worker, found.case.prompt + found.case.answer
    if worker.capacity(found.device.memory, context) < 1:
        weights_gb, cache_gb = worker.weight_bytes() / 1e9, worker.request_cache_bytes(context) / 1e9
        sizes = (
            f"{weights_gb:.3g} GB of weights and {cache_gb:.3g} GB of cache for one request of {context:,.0f} tokens"
        )
        place = f"{on}: {sizes} on a device of {found.device.memory / 1e9:.3g} GB"
        stated = numeric_precision.parse_precision(query.precision, query.model).stated
        narrower = ", or a narrower format in the layout" if stated else ""
        hint = f"ask for more devices or shorter requests{narrower}"
        raise argument_error("AW-USE-21", f"{query.model} in {worker.number.name} does not fit {place}", "on", hint)
    return serving_prediction.predict_resolved_deployment(found, fitted_tables.load_table("serving"))


def predict_training(
    model: str,
    *,
    on: str,
    load: str = "256x4096",
    layout: str = "",
    tokens: float | None = None,
    usd_per_hour: float | None = None,
) -> SizingPrediction:
    """Predict tokens/s, memory per device and step time of training `model` (a name, or a size such as "13B").

    `on`: "64x NAME". `load`: the batch, sequences x tokens. `tokens` adds device hours, days and goodput,
    `usd_per_hour` the cost. `layout`: ranks (default: the fastest that fit), number format and recompute; "lora" trains
    adapters, "scratch" trains from random weights.
    Raises CatalogError AW-CAT-01 (unknown name), AW-CAT-10 (a name of several models), UsageError AW-USE-20 (not a
    batch), AW-USE-21 (nothing fits), AW-USE-23 (a word of the layout).
    """
    found = _BATCH.match(load)
    if found is None:
        raise _invalid_load_error(load, "256x4096: sequences x tokens")
    _check_words(layout, _TRAINING_WORD, "FSDP8 micro 1 bf16")
    sequences, length = (float(part) for part in found.groups())
    count, name = _parse_devices(on)
    _check_positive("tokens", tokens)
    _check_positive("usd_per_hour", usd_per_hour)
    subjects = _load_subjects()
    size = _SIZE.match(model)
    query = token_throughput.TrainingQuery(
        model=model if size else subjects.meant_model(model).id,
        accelerator=name,
        devices=count,
        parameters=float(size[1]) * _SIZES[size[2].lower()] if size else None,
        sequence_tokens=length,
        batch_tokens=sequences * length,
        tokens=tokens,
        precision=layout,
        parallelism=layout,
        recompute="selective" if "selective" in layout.lower() else "full" if "full" in layout.lower() else "",
    )
    run = training_prediction.predict_training_run(query, subjects, usd_per_hour)
    if run is None:
        hint = "ask for more devices, shorter sequences, or lora in the layout"
        raise argument_error("AW-USE-21", f"{model} does not fit {on} in any parallel layout", "on", hint)
    stated = numeric_precision.parse_precision(layout, "").name
    lacking = stated in ("fp8", "fp4") and stated not in subjects.accelerator(name).flops
    fallback = f"format: {run.accelerator} does not compute in {stated}, so steps run in a wider format"
    return replace(run, assumed=(*run.assumed, fallback)) if lacking else run


def accuracy(file: str, *, rows_out: str | None = None) -> scoring.AccuracyReport:
    """Predict every row of a benchmark table (columns: docs/accuracy.md); score the rows that hold measurements.

    Predictions never read the measurements. Raises PlanFileError (not a table), UsageError AW-USE-22 if `rows_out` is
    the table itself.
    """
    out = None if rows_out is None else Path(rows_out)
    if out is not None and out.exists() and Path(file).exists() and out.samefile(file):
        hint = "choose another file for --rows-out"
        raise argument_error("AW-USE-22", f"{rows_out} is the table itself and would be overwritten", "rows_out", hint)
    return scoring.score_benchmark(
        Path(file), _load_subjects(), out, lambda path, text: write_atomic(path, text.encode(), mode=0o644)
    )


def _load_subjects() -> BenchmarkNameResolver:
    return BenchmarkNameResolver(load_catalog(locate_home(settings.load())))


def _parse_devices(on: str) -> tuple[int, str]:
    """Raises UsageError AW-USE-23 if the count is 0."""
    count, name = name_resolution.parse_machine(on)
    if count < 1:
        hint = "write a count and a name, for example 8xNAME"
        raise argument_error("AW-USE-23", f"{on!r} names no device", "on", hint)
    return count, name


def _check_positive(name: str, value: float | None) -> None:
    if value is not None and not 0 < value <= LARGEST_COUNT:
        hint = f"give {name} a number above 0"
        raise argument_error("AW-USE-23", f"{name} is {value:g}, which is not positive", name, hint)


def _invalid_load_error(load: str, example: str) -> UsageError:
    hint = f"write for example {example}; each count is at least 1"
    return argument_error("AW-USE-20", f"{load!r} is not a load", "load", hint)
