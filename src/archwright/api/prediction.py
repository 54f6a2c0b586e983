"""Sizing without a plan: the `predict` verbs and `accuracy`. Texts are parsed by sizing/stated_query.py."""

from pathlib import Path

from archwright import settings
from archwright.catalog.benchmark_names import BenchmarkNameResolver
from archwright.catalog.catalog import Catalog
from archwright.catalog.load import load_catalog
from archwright.catalog.model_file_names import find_model_file
from archwright.catalog.probe.machine_probe import read_machine
from archwright.contract.machine_inventory import InventoryPlan
from archwright.contract.needs import SLO
from archwright.contract.record import replace
from archwright.contract.sizing_prediction import SizingPrediction
from archwright.errors import argument_error
from archwright.home import locate_home, write_atomic
from archwright.operate.platform_state import is_serving
from archwright.plan.capacity.inventory_file import read_inventory
from archwright.plan.capacity.machine_inventory import InventoryPlanner
from archwright.plan.evidence.pilot_runs import find_query_pilot
from archwright.reconcile.calibration.engine_measurement import EngineMeasurer
from archwright.simulate.local_prediction import THIS_MACHINE, predict_on_this_machine
from archwright.simulate.rate_prediction import predict_at_rate
from archwright.sizing import accuracy as scoring
from archwright.sizing import stated_query
from archwright.sizing.inference.closed_loop_prediction import (
    find_usual_engine,
    note_usual_engine,
    note_wide_ttft,
    predict_closed_loop,
)
from archwright.sizing.inference.option_prediction import apply_options, parse_engine_options
from archwright.sizing.inference.serving_prediction import ServingQuery
from archwright.sizing.model.numeric_precision import parse_precision
from archwright.sizing.training import training_prediction
from archwright.sizing.training.token_throughput import TrainingQuery
from archwright.sizing.workloads import workload_prediction

DEFAULT_LOAD = "max x 1024 + 1024"
LOCAL_LOAD = "1 x 512 + 128"
OFFLINE_SCENARIO = "offline_max"
CLOSED_SCENARIO = "fixed_concurrency_agg"


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
    if on.strip().lower() == THIS_MACHINE:
        return _predict_local_serving(model, load or LOCAL_LOAD, is_engine_stated=bool(engine or layout or options))
    traffic = stated_query.parse_serving_load(load or DEFAULT_LOAD)
    devices, accelerator_name = stated_query.parse_devices(on)
    subjects = _load_subjects()
    model_id = subjects.meant_model(model).id
    precision = parse_precision(layout, model_id)
    accelerator = subjects.accelerator(accelerator_name)
    stated_engine = engine.strip()
    usual_engine = "" if stated_engine else find_usual_engine(accelerator, subjects)
    stated_query.check_serving_layout(layout, devices)
    is_offline = traffic.in_flight is None and traffic.requests_per_second is None
    query = ServingQuery(
        model=model_id,
        accelerator=accelerator_name,
        devices=devices,
        parallelism=layout,
        precision=precision.name if precision.stated else "",
        native_format=True,
        engine=stated_engine or usual_engine,
        scenario=OFFLINE_SCENARIO if is_offline else CLOSED_SCENARIO,
        concurrency=None if traffic.in_flight is None else float(traffic.in_flight),
        input_tokens=float(traffic.prompt_tokens),
        output_tokens=float(traffic.answer_tokens),
    )
    chosen_options = parse_engine_options(options, model_id, subjects.catalog) if options else None
    if traffic.requests_per_second is not None:
        predicted = predict_at_rate(query, traffic.requests_per_second, subjects, options=chosen_options)
        predicted = note_usual_engine(predicted, usual_engine)
    else:
        predicted = note_usual_engine(predict_closed_loop(query, on, subjects), usual_engine)
        if chosen_options is not None:
            predicted = apply_options(predicted, chosen_options, query=query, subjects=subjects)
    pilot = find_query_pilot(query, subjects)
    if pilot is None:
        predicted = note_wide_ttft(predicted)
    return replace(predicted, pilot=pilot)


def _predict_local_serving(model: str, load: str, *, is_engine_stated: bool) -> SizingPrediction:
    """Predict the embedded engine. Raises also MissingError AW-GET-01 and CatalogError AW-CAT-06 of the probe."""
    traffic = stated_query.parse_serving_load(load)
    if is_engine_stated:
        hint = "leave out --engine, --layout and --options"
        raise argument_error("AW-USE-23", "this machine is predicted with the embedded engine only", "engine", hint)
    chosen = settings.load()
    home = locate_home(chosen)
    artefact = find_model_file(model, load_catalog(home))
    machine = read_machine(home, home.find_model(artefact.sha256))
    EngineMeasurer(home, chosen.engine_measurement_s, is_serving=is_serving).measure([artefact], machine)
    return predict_on_this_machine(artefact, machine, traffic, catalog=load_catalog(home))


def predict_inventory(
    file: str,
    *,
    people: int | None = None,
    model: str = "",
    ttft_p95_s: float | None = None,
    tpot_p95_s: float | None = None,
) -> InventoryPlan:
    """Say which machines of the CSV `file` (name, count, memory_gb) run which model for how many people's chats.

    Each machine gets its best model; with `people`, all machines share the best model that serves so many; with
    `model`, they share that one. The limits default to those at which people read (slo_presets.csv).
    Raises PlanFileError AW-FILE-23 with the line of a bad value or an unknown name, CatalogError AW-CAT-01 (unknown
    model), UsageError AW-USE-23 (a number that is not above 0, or both `people` and `model`).
    """
    stated_query.check_positive("people", people)
    stated_query.check_positive("ttft_p95_s", ttft_p95_s)
    stated_query.check_positive("tpot_p95_s", tpot_p95_s)
    if model and people is not None:
        hint = "leave out --people: the answer says how many people the model serves"
        raise argument_error("AW-USE-23", "a model and a number of people were both stated", "people", hint)
    path = Path(file)
    machines = read_inventory(path)
    slo = SLO(ttft_p95_s=ttft_p95_s, tpot_p95_s=tpot_p95_s)
    planner = InventoryPlanner(_load_subjects(), slo)
    return planner.plan(machines, path, model=model, people=people)


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
    batch = stated_query.parse_training_batch(load)
    stated_query.check_training_layout(layout)
    devices, accelerator = stated_query.parse_devices(on)
    stated_query.check_positive("tokens", tokens)
    stated_query.check_positive("usd_per_hour", usd_per_hour)
    subjects = _load_subjects()
    parameters = stated_query.parse_model_size(model)
    query = TrainingQuery(
        model=subjects.meant_model(model).id if parameters is None else model,
        accelerator=accelerator,
        devices=devices,
        parameters=parameters,
        sequence_tokens=batch.sequence_tokens,
        batch_tokens=batch.sequences * batch.sequence_tokens,
        tokens=tokens,
        precision=layout,
        parallelism=layout,
        recompute=training_prediction.parse_recompute(layout),
    )
    predicted = training_prediction.predict_training_run(query, subjects, usd_per_hour)
    if predicted is None:
        hint = "ask for more devices, shorter sequences, or lora in the layout"
        raise argument_error("AW-USE-21", f"{model} does not fit {on} in any parallel layout", "on", hint)
    return predicted


def predict_embedding(
    model: str, *, on: str, tokens: str = "500", latency_p95_s: float | None = None
) -> SizingPrediction:
    """Predict the texts per second that `on` ("1x NAME", or "16 vCPU") embeds with `model`.

    `tokens`: tokens of a text (mean, or mean..p95). Raises CatalogError AW-CAT-01 (unknown name), UsageError AW-USE-20
    (not a length), AW-USE-21 (the model does not fit).
    """
    catalog = _load_home_catalog()
    lengths = stated_query.parse_token_length(tokens)
    embedder = workload_prediction.find_embedder(model, catalog)
    machine = stated_query.parse_machine(on, catalog)
    slo = SLO(latency_p95_s=latency_p95_s)
    return workload_prediction.predict_embedding(machine, embedder, lengths, slo=slo, catalog=catalog)


def predict_image(on: str, *, pixels: float, parameters: float, latency_p95_s: float | None = None) -> SizingPrediction:
    """Predict the images of `pixels` pixels per second that `on` classifies with a network of `parameters` parameters.

    Raises CatalogError AW-CAT-01 (unknown name), UsageError AW-USE-20 (not a size).
    """
    catalog = _load_home_catalog()
    stated_query.check_sizes(pixels=pixels, parameters=parameters)
    machine = stated_query.parse_machine(on, catalog)
    slo = SLO(latency_p95_s=latency_p95_s)
    return workload_prediction.predict_image(machine, pixels=pixels, parameters=parameters, slo=slo, catalog=catalog)


def predict_table(on: str, *, features: int, latency_p95_s: float | None = None) -> SizingPrediction:
    """Predict the rows of `features` features per second that the cores of `on` predict by boosted trees.

    Raises CatalogError AW-CAT-01 (unknown name), UsageError AW-USE-20 (not a count).
    """
    catalog = _load_home_catalog()
    stated_query.check_sizes(features=features)
    machine = stated_query.parse_machine(on, catalog)
    slo = SLO(latency_p95_s=latency_p95_s)
    return workload_prediction.predict_table(machine, features=features, slo=slo, catalog=catalog)


def predict_data(on: str, *, gib: float) -> SizingPrediction:
    """Predict the hours that the cores of `on` take to ingest and refine `gib` GiB.

    Raises CatalogError AW-CAT-01 (unknown name), UsageError AW-USE-20 (not a size).
    """
    catalog = _load_home_catalog()
    stated_query.check_sizes(gib=gib)
    machine = stated_query.parse_machine(on, catalog)
    return workload_prediction.predict_data(machine, gib=gib, catalog=catalog)


def accuracy(file: str, *, rows_out: str | None = None, against: str = "") -> scoring.AccuracyReport:
    """Predict every row of a benchmark table (columns: docs/accuracy.md); score the rows that hold measurements.

    Predictions never read the measurements. `against`: other predictors to score on the same rows, "roofline,
    constant-share" or NAME=FILE.csv with predictions in the columns of `rows_out`.
    Raises PlanFileError (not a table), UsageError AW-USE-22 if `rows_out` is the table itself, AW-USE-23 (an unknown
    predictor, or a table of training).
    """
    out = None if rows_out is None else Path(rows_out)
    if out is not None and out.exists() and Path(file).exists() and out.samefile(file):
        hint = "choose another file for --rows-out"
        raise argument_error("AW-USE-22", f"{rows_out} is the table itself and would be overwritten", "rows_out", hint)
    return scoring.score_benchmark(Path(file), _load_subjects(), out, write=_write_report, against=against)


def _write_report(path: Path, text: str) -> None:
    content = text.encode()
    write_atomic(path, content, mode=0o644)


def _load_home_catalog() -> Catalog:
    return load_catalog(locate_home(settings.load()))


def _load_subjects() -> BenchmarkNameResolver:
    return BenchmarkNameResolver(_load_home_catalog())
