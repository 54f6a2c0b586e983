"""`predict serving MODEL --on this-machine`: any open model in the embedded engine here, before a download."""

import math
import time
from typing import NamedTuple

from archwright import settings
from archwright.api.argument_errors import argument_error
from archwright.api.engine_measurement import EngineMeasurer
from archwright.catalog.catalog import Catalog
from archwright.catalog.load import load_catalog
from archwright.catalog.probe.engine_report import read_engine_report
from archwright.catalog.probe.machine_probe import probe_machine
from archwright.catalog.tables.name_resolution import unknown_name_error
from archwright.contract.estimate import Estimate, sum_estimates, within_factor
from archwright.contract.needs import TokenLength
from archwright.contract.plan import Artefact, LoadSpec, MachineFacts
from archwright.contract.record import replace
from archwright.contract.sizing_prediction import SizingPrediction
from archwright.errors import CatalogError
from archwright.home import Home, locate_home
from archwright.journal import report_step
from archwright.plan.options.local_models import SLOT_COUNTS
from archwright.simulate.continuous_batching import SimulatedRequest
from archwright.simulate.local_engine import build_local_spec, find_embedded_engine
from archwright.simulate.serving_simulation import (
    ServingSpec,
    build_batching,
    fits_hardware,
    list_slowdowns,
    predict_serving,
    replica_memory,
)
from archwright.sizing.model.engine_memory import USABLE_SHARE

THIS_MACHINE = "this-machine"
DEFAULT_QUANTISATION = "Q4_K_M"
PROBE_LASTS_S = 7 * 86_400.0
CONTEXT_STEP = 256
PEAK_S = 45.0
# A closed loop lasts until the slow end of the band has answered this many requests per slot.
ROUNDS = 3
# A size that follows from bits per weight: small models keep a larger share of their weights in wider formats.
COMPUTED_SIZE = 1.08
DEFINITIONS = {
    "ttft_p50_s": "request to first token, gateway included",
    "tpot_p50_s": "time between tokens of an answer",
    "tokens_per_s": "output tokens of all requests in flight",
    "memory_bytes": "peak of the engine and of the platform's own processes",
    "cold_start_s": "`up` to ready; the high end reads the file from the disk",
    "download_bytes": "size of the model file",
}


class RequestTraffic(NamedTuple):
    """Requests of `prompt` and `answer` tokens: `in_flight` (0: as many as fit, at most 4), or `rate` per second."""

    in_flight: int
    rate: float
    prompt: int
    answer: int


def predict_on_this_machine(model: str, traffic: RequestTraffic) -> SizingPrediction:
    """Predict speed, memory, cold start and disk of MODEL or MODEL:QUANTISATION under `traffic`.

    Raises CatalogError AW-CAT-01 (unknown model or quantisation), UsageError AW-USE-21 (memory or context too small),
    MissingError AW-GET-01 and CatalogError AW-CAT-06 of the probe.
    """
    chosen = settings.load()
    home = locate_home(chosen)
    artefact = find_model_file(model, load_catalog(home))
    machine = read_machine(home, artefact)
    EngineMeasurer(home, chosen.engine_measurement_s).measure([artefact], machine)
    spec = choose_slots(artefact, machine, load_catalog(home), traffic)
    if not traffic.rate:
        spec = replace(spec, load=replace(spec.load, closed_s=_closed_seconds(spec, traffic)))
    found, size = predict_serving(spec), float(artefact.size_bytes)
    file = within_factor(size, 1.0 if artefact.sha256 else COMPUTED_SIZE, "bytes")
    unsure = Estimate(value=0.0, low=file.low - size, high=file.high - size, unit="bytes")
    estimates = {
        "ttft_p50_s": found.ttft_p50_s,
        "ttft_p95_s": found.ttft_p95_s,
        "tpot_p50_s": found.tpot_p50_s,
        "tpot_p95_s": found.tpot_p95_s,
        "tokens_per_s": found.tokens_per_s,
        "memory_bytes": sum_estimates([found.peak_memory_bytes, unsure], "bytes"),
        "cold_start_s": found.startup_s,
        "download_bytes": file,
    }
    if traffic.rate:
        del estimates["tokens_per_s"]
    elif spec.load.concurrency == 1:
        del estimates["ttft_p95_s"], estimates["tpot_p95_s"]
    used = replica_memory(spec).total
    return SizingPrediction(
        model=f"{spec.model.id} {spec.quantisation}",
        accelerator=THIS_MACHINE,
        devices=1,
        stratum=spec.stratum,
        estimates=estimates,
        definitions={name: DEFINITIONS.get(name, "the same at the 95th percentile") for name in estimates},
        formula=found.bases[0].formula,
        sources=(
            *found.bases[0].facts,
            f"model: {spec.model.source}",
            f"file: {artefact.source}",
        ),
        weak=_list_weak_points(artefact, machine, spec),
        assumed=_list_assumptions(artefact, home),
        layout=f"slots: {spec.slots} of {spec.context_tokens:,} tokens, threads: {spec.threads}, "
        f"fits: {used / 2**30:.3g} of {machine.memory_bytes * USABLE_SHARE / 2**30:.3g} GiB",
    )


def find_model_file(name: str, catalog: Catalog) -> Artefact:
    """Return the file that MODEL, MODEL:QUANTISATION or the name of a stored file means.

    Without a quantisation: the file in the home or the wheel, else Q4_K_M or what the hub lists. A quantisation that no
    repository lists gets a computed size. Raises CatalogError AW-CAT-01.
    """
    runnable = ((one, catalog.models.get(one.model)) for listed in catalog.model_files.values() for one in listed)
    files = {one.name: one for one, model in runnable if model is not None and one.form == "gguf"}
    if name in files:
        return files[name]
    stem, colon, wanted = name.partition(":")
    try:
        model = files[stem].model if stem in files else catalog.model(stem).id
    except CatalogError as error:
        raise unknown_name_error("model", stem, {*catalog.models, *files}) from error
    listed = [one for one in files.values() if one.model == model]
    offered = [one.quantisation for one in listed] or [DEFAULT_QUANTISATION]
    usual = DEFAULT_QUANTISATION if DEFAULT_QUANTISATION in offered else offered[0]
    present = next((one.quantisation for one in listed if one.sha256), usual)
    formats = find_embedded_engine(catalog).quantisations
    named = wanted if colon else present
    quantisation = {known.lower(): known for known in formats}.get(named.lower())
    if quantisation is None:
        raise unknown_name_error("quantisation", named, formats)
    known = next((one for one in listed if one.quantisation == quantisation), None)
    return known or catalog.compute_model_file(model, quantisation)


def read_machine(home: Home, artefact: Artefact, *, fresh: bool = False) -> MachineFacts:
    """Return the home's probe of this machine; probe if there is none, if it is older than a week, or if `fresh`.

    The engine may have been updated since the probe, so its report is always of now.
    """
    known = load_catalog(home).machine
    if known is not None and not fresh and time.time() - known.probed_at < PROBE_LASTS_S:
        return replace(known, engine=read_engine_report())
    report_step("probing this machine")
    path = home.stored_models / f"{artefact.sha256}.gguf"
    return probe_machine(home, path if artefact.sha256 and path.is_file() else None, now=time.time)


def build_spec(
    artefact: Artefact, machine: MachineFacts, catalog: Catalog, traffic: RequestTraffic, slots: int
) -> ServingSpec:
    """Return the embedded engine with `slots` slots, each for one request of `traffic` and the chat template."""
    reads, writes = (
        TokenLength(mean=float(size), p95=float(size)) for size in (traffic.prompt, max(traffic.answer, 2))
    )
    load = LoadSpec(
        workload="predict",
        model=artefact.model,
        requests_per_second=traffic.rate,
        input_tokens=reads,
        output_tokens=writes,
        concurrency=slots,
        peak_s=max(PEAK_S, 1 / traffic.rate) if traffic.rate else PEAK_S,
    )
    needed = artefact.template_tokens + traffic.prompt + traffic.answer
    context = CONTEXT_STEP * math.ceil(needed / CONTEXT_STEP)
    return build_local_spec(catalog.models[artefact.model], artefact, machine, catalog, load, context)


def choose_slots(artefact: Artefact, machine: MachineFacts, catalog: Catalog, traffic: RequestTraffic) -> ServingSpec:
    """Return the spec with the slots of `traffic`, or with the most that fit.

    Raises UsageError AW-USE-21 if not even the least number of slots fits, or a request exceeds the context.
    """
    longest = catalog.models[artefact.model].context_tokens
    if traffic.prompt + traffic.answer > longest:
        message = f"a request of {traffic.prompt + traffic.answer:,} tokens exceeds the context of {artefact.model}"
        raise argument_error("AW-USE-21", message, "load", f"use at most {longest:,} prompt and answer tokens")
    counts = (traffic.in_flight,) if traffic.in_flight else SLOT_COUNTS
    specs = [build_spec(artefact, machine, catalog, traffic, slots) for slots in counts]
    chosen = next((spec for spec in specs if fits_hardware(spec)), None)
    if chosen is not None:
        return chosen
    needed, room = replica_memory(specs[-1]).total / 2**30, machine.memory_bytes * USABLE_SHARE / 2**30
    message = (
        f"{artefact.model} in {artefact.quantisation} needs {needed:.3g} GiB with {counts[-1]} x "
        f"{specs[-1].context_tokens:,} tokens of cache; an engine may use {room:.3g} GiB of this machine"
    )
    smaller = [catalog.compute_model_file(artefact.model, name) for name in specs[-1].engine.quantisations]
    fitting = [one for one in smaller if fits_hardware(build_spec(one, machine, catalog, traffic, counts[-1]))]
    best = max(fitting, key=lambda one: one.size_bytes, default=None)
    hint = "choose a smaller model: archwright plan --download names the best one that fits"
    if best is not None:
        hint = f"choose a smaller quantisation, such as {best.model}:{best.quantisation}, or shorter requests"
    raise argument_error("AW-USE-21", message, "model", hint)


def _closed_seconds(spec: ServingSpec, traffic: RequestTraffic) -> float:
    """Return the length of ROUNDS rounds of answers at the slow end of the band."""
    slowest = list_slowdowns(spec, 2)[-1]
    requests = [SimulatedRequest(0.0, traffic.prompt, 0, max(traffic.answer, 2))] * spec.load.concurrency
    return ROUNDS * max(one.last_s for one in build_batching(spec, slowest).run(requests))


def _list_weak_points(artefact: Artefact, machine: MachineFacts, spec: ServingSpec) -> tuple[str, ...]:
    found = []
    if spec.speed is None and not spec.is_measured:
        row = spec.efficiency
        found.append(f"{row.engine} was not measured with {row.quantisation} here: the intervals are wide")
    elif spec.speed is not None and not spec.is_measured:
        found.append(f"the speed was {spec.speed.stratum}, so the intervals are wide")
    if machine.is_busy:
        found.append(f"other processes used {machine.busy_share:.0%} of the processor during the probe")
    if spec.speed is None and spec.threads > 1:
        found.append("the probe has one thread; the rates of more threads are scaled")
    if not artefact.sha256:
        found.append("the size of the file is computed from its parameters and bits per weight")
        if artefact.size_bytes > machine.disk_free_bytes:
            found.append(f"the disk has only {machine.disk_free_bytes / 2**30:.3g} GiB free for the file")
    return tuple(found)


def _list_assumptions(artefact: Artefact, home: Home) -> tuple[str, ...]:
    if artefact.sha256 and (home.stored_models / f"{artefact.sha256}.gguf").is_file():
        return ("the file is in this home: nothing is downloaded",)
    return (f"a file of the model in {artefact.quantisation} is available",)
