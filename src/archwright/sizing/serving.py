"""Predicts a serving deployment: TPOT, TTFT and throughput with bands, for anything named well enough to size.

One predictor per stratum, each chosen by the grouped cross-validation of that stratum (docs/accuracy.md):
- seen configuration (this model on this accelerator, this engine family were fitted): physics + residual trees;
- unseen model, unseen accelerator, or both: physics alone. Multipliers per family or chip made these worse.
What makes a row weak (a gate) widens its band and is said.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from archwright.catalog.rows import Accelerator, ModelSpec
from archwright.catalog.subjects import Subjects
from archwright.contract.record import Record
from archwright.errors import CatalogError
from archwright.sizing import assumed as made_up
from archwright.sizing import fits, formats, layout, steps, trees
from archwright.sizing.features import features
from archwright.sizing.shape import shape_of
from archwright.sizing.work import Device, Worker, device_of

SEEN, NEW_MODEL, NEW_ACCELERATOR = "seen configuration", "unseen model", "unseen accelerator"
NEW_BOTH = "unseen model and accelerator"
POOLED, SHORT, OFFLINE = "disaggregated", "queueing", "offline"
# Each reason to distrust a row widens its band by this power.
WEAKER = 1.35
# A stated load that uses more than this of what the device can do is mislabelled (research: see docs/accuracy.md).
MOST_RESIDUAL = 1.5
# Assumed: a server under a latency limit keeps this share of its offline rate; p99 over the mean.
SERVER_SHARE = 0.88
P99 = {"tpot_s": 1.4, "ttft_s": 3.0}
MOST_DEVICES = 1_000_000
LEAST_PARAMETERS, MOST_PARAMETERS = 1e6, 1e14


class Serving(Record):
    """What is asked: a deployment and its load, as a benchmark row or a user states it. Empty means unstated."""

    model: str
    accelerator: str
    devices: int = 0
    parallelism: str = ""
    precision: str = ""
    engine: str = ""
    scenario: str = ""
    concurrency: float | None = None
    input_tokens: float | None = None
    output_tokens: float | None = None
    parameters: float | None = None
    active_parameters: float | None = None
    ttft_statistic: str = ""
    tpot_statistic: str = ""


class Guess(NamedTuple):
    """A value and its 90 % band."""

    value: float
    low: float
    high: float

    def scaled(self, by: float) -> Guess:
        return Guess(self.value * by, self.low * by, self.high * by)


class Answer(NamedTuple):
    """SI; None where the quantity has no meaning in the scenario."""

    tpot_s: Guess | None
    ttft_s: Guess | None
    tokens_per_s: Guess
    stratum: str
    regime: str
    weak: tuple[str, ...]
    assumed: tuple[str, ...]


class Deployment(NamedTuple):
    """A resolved question."""

    model: ModelSpec
    accelerator: Accelerator
    worker: Worker
    device: Device
    case: steps.Case
    asked: Serving
    beams: int
    weak: tuple[str, ...]
    assumed: tuple[str, ...]


def identity(model: ModelSpec) -> str:
    """Models of one shape are one model here: names, tunings and releases share it."""
    return f"{model.layers}x{model.hidden}x{model.heads}/{model.kv_heads}x{model.experts}"


def resolve(asked: Serving, subjects: Subjects) -> Deployment:
    """Raises CatalogError AW-CAT-01 when model (without a stated count) or accelerator has no row."""
    accelerator = subjects.accelerator(asked.accelerator)
    model, weak = model_of(asked.model, (asked.parameters, asked.active_parameters), subjects)
    number = formats.parse(asked.precision, asked.model)
    assumed = []
    if not number.stated:
        weak.append(f"precision {asked.precision!r} is unknown")
    shape = shape_of(model)
    device = device_of(accelerator, number, shape.sparse)
    placed = layout.parse(asked.parallelism)
    if placed is None:
        placed = _fitting(Worker(shape, number, layout.Layout()), device, asked.devices)
        assumed.append(f"parallelism: TP{placed.tp}")
    placed = layout.spread(placed, min(asked.devices, MOST_DEVICES))
    worker = Worker(shape, number, placed)
    given, made, beams = subjects.load(asked.scenario, model.id)
    prompt, answer = asked.input_tokens, asked.output_tokens
    if prompt is None or answer is None:
        assumed.append("prompt and answer length")
        prompt, answer = given if prompt is None else prompt, made if answer is None else answer
    sent = asked.concurrency
    if sent is None:
        assumed.append("requests in flight: as many as fit")
    traffic = steps.Traffic(sent=sent, prompt=prompt, answer=answer)
    case = steps.case_of(worker, device, subjects.engine(asked.engine), model.attention, traffic)
    weak += _gates(worker, device, case)
    if asked.devices and placed.total > asked.devices:
        weak.append(f"the layout needs {placed.total} devices, {asked.devices} are stated")
    return Deployment(model, accelerator, worker, device, case, asked, beams, tuple(weak), tuple(assumed))


def model_of(name: str, counts: tuple[float | None, float | None], subjects: Subjects) -> tuple[ModelSpec, list[str]]:
    """The row, or for an unknown name an assumed shape of the stated counts; what is weak about it."""
    try:
        return subjects.model(name), []
    except CatalogError:
        parameters = counts[0] or counts[1] or 0.0
        if not name or not LEAST_PARAMETERS <= parameters <= MOST_PARAMETERS:
            raise
        return made_up.model_of(name, parameters, counts[1] or parameters), ["its shape is assumed from its size"]


def _fitting(worker: Worker, device: Device, devices: int) -> layout.Layout:
    """The narrowest tensor parallelism whose weights leave room, up to the stated devices; the widest else."""
    limit, tp = max(devices, 1), 1
    if devices < 1:
        limit = layout.WIDEST_TENSOR
    while tp * 2 <= limit:
        tried = worker._replace(layout=layout.Layout(tp=tp, moe_tp=tp, ep=1))
        if tried.weights() < 0.75 * device.memory:
            break
        tp *= 2
    return layout.Layout(tp=tp, moe_tp=tp, ep=1)


def _gates(worker: Worker, device: Device, case: steps.Case) -> list[str]:
    found = []
    # A host processor has no memory of its own stated.
    if device.memory and worker.weights() > device.memory:
        found.append("the weights exceed the devices' memory")
    if case.prefill_ranks and case.ranks == 1 and case.prefill_ranks == 1:
        found.append("a disaggregated row with one worker each: tables count these unreliably")
    return found


def stratum_of(found: Deployment, seen: dict[str, tuple[str, ...]]) -> str:
    model, accelerator = identity(found.model), found.accelerator.id
    old_model, old_accelerator = model in seen["model"], accelerator in seen["accelerator"]
    old_engine = found.case.engine in seen["engine"]
    if old_model and old_accelerator and old_engine:
        return SEEN if f"{model} {accelerator}" in seen["pair"] else NEW_ACCELERATOR
    if old_model and old_accelerator:
        return NEW_BOTH
    return NEW_MODEL if old_accelerator else NEW_ACCELERATOR if old_model else NEW_BOTH


def regime_of(found: Deployment) -> str:
    if found.case.prefill_ranks:
        return POOLED
    if found.asked.scenario.startswith(("offline", "mlperf")):
        return OFFLINE
    return SHORT if found.case.sent > found.case.held else ""


def predict(asked: Serving, subjects: Subjects, fit: fits.Fit | None = None) -> Answer:
    """Raises CatalogError AW-CAT-01 for a name nobody knows."""
    return answer(resolve(asked, subjects), fit or fits.load("serving"))


def answer(found: Deployment, fit: fits.Fit, stratum: str = "") -> Answer:
    """`stratum` overrides what the fit has seen, for scoring a left-out group."""
    case, asked = found.case, found.asked
    stratum = stratum or stratum_of(found, fit.seen)
    regime = regime_of(found)
    tpot, ttft = centre(found, fit, residual=stratum == SEEN)
    if asked.scenario.startswith("batch1"):
        # A bare engine timed without a server: nothing is scheduled, nothing waits.
        ttft = steps.read_s(case, fit.coefficients["ttft"])
    rate = steps.throughput(case, tpot) / found.beams
    if regime != OFFLINE:
        # Beyond what the cache holds more requests wait, and no more are answered.
        rate = min(rate, case.sent * case.ranks * case.answer / (ttft + case.answer * tpot))
    if asked.scenario == "mlperf_server":
        rate *= SERVER_SHARE
    if asked.scenario == "batch1_prefill" and case.answer <= 1:
        rate = case.prompt / ttft
    widen = WEAKER ** len(found.weak)
    if "p99" in asked.tpot_statistic:
        tpot, widen = tpot * P99["tpot_s"], widen * WEAKER
    if "p99" in asked.ttft_statistic:
        ttft, widen = ttft * P99["ttft_s"], widen * WEAKER
    slower = banded(1 / max(rate, 1e-9), fit, ("pace_s" if regime == OFFLINE else "tpot_s", stratum, regime), widen)
    return Answer(
        tpot_s=banded(tpot, fit, ("tpot_s", stratum, regime), widen) if case.answer > 1 else None,
        ttft_s=banded(ttft, fit, ("ttft_s", stratum, regime), widen),
        tokens_per_s=Guess(rate, 1 / slower.high, 1 / slower.low),
        stratum=stratum,
        regime=regime,
        weak=found.weak,
        assumed=found.assumed,
    )


def centre(found: Deployment, fit: fits.Fit, *, residual: bool) -> tuple[float, float]:
    """TPOT and TTFT without a band, in seconds."""
    tpot = steps.tpot_s(found.case, fit.coefficients["tpot"])
    step = steps.step_s(found.case, fit.coefficients["tpot"])
    ttft = steps.ttft_s(found.case, fit.coefficients["ttft"], step, tpot)
    if residual:
        seen = features(found.case, found.worker.shape, found.device, found.asked.engine, fit.seen["engine"])
        tpot *= _correction(fit.residuals["tpot"], seen)
        ttft *= _correction(fit.residuals["ttft"], seen)
    return tpot, ttft


def _correction(table: tuple[trees.Tree, ...], seen: list[float]) -> float:
    return math.exp(min(max(trees.total(table, seen), -MOST_RESIDUAL), MOST_RESIDUAL))


def banded(value: float, fit: fits.Fit, place: tuple[str, str, str], widen: float) -> Guess:
    """`place`: metric, stratum, regime. Where model and accelerator are both new, the two bands add as squares."""
    metric, stratum, regime = place
    names = (NEW_MODEL, NEW_ACCELERATOR) if stratum == NEW_BOTH else (stratum,)
    found = [fit.band(metric, name, regime) for name in names]
    low = math.hypot(*(math.log(band.low) for band in found)) * widen
    high = math.hypot(*(math.log(band.high) for band in found)) * widen
    return Guess(value, value * math.exp(-low), value * math.exp(high))
