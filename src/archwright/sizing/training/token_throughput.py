"""Training throughput of a cluster: device-seconds per token from FLOPs, memory traffic, exchange and pipeline bubble.

Per token and device (`rate` of the 16-bit matmul; lower-case names in quotes are fitted coefficients):
  c         = 6 + 2 r FLOPs per parameter, 4 + 2 r if only adapters are trained; r: share of the forward pass recomputed
  products  = c x (D (1 + "d0" / d) + X ("moe" + "x0" / f)) / (rate x "e" x speed-up)   D dense, X expert parameters
              active per token; d hidden size, f expert width; speed-up of 8 bits = (rate of 8 bits / rate) ^ "narrow"
  attention = (6 + 2 r) / 2 x attention FLOPs of a causal sequence / (rate x "ea") x (rate / reference) ^ "late"
  traffic   = "act" x activation bytes of the layers / bandwidth      norms, activations, residuals, routed copies
  updates   = "adam" x 28 bytes x trained / tokens of a step / bandwidth; "launch" x layers / tokens of a micro-batch
  unpacking = "unpack" x 2 bytes x N / tokens of a micro-batch / bandwidth   frozen weights of 4 bits (QLoRA)
  shards    = "gather" x 2 bytes x N / tokens of a micro-batch / link       if parameters are sharded (FSDP, ZeRO-3)
  tensor    = "ex" x 2 bytes x L d (TP - 1) / scale-up link
  dispatch  = "send" x 8 bytes x L d x copies of a token on other devices / link          to experts and back, twice
  bubble    = 1 + (PP - 1) / (micro-batches x virtual stages)                factor on the sum
Experts are spread over the ranks that hold copies of the rest (expert parallelism), so they are sent tokens instead of
being gathered. Step time and GPU-hours follow.
"""

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from archwright.catalog.benchmark_names import BenchmarkNameResolver
from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import Accelerator, ModelSpec
from archwright.contract.estimate import Estimate
from archwright.contract.record import Record
from archwright.sizing.inference import serving_prediction
from archwright.sizing.inference.serving_prediction import NEW_ACCELERATOR, NEW_BOTH, NEW_MODEL, NEW_SOURCE, SEEN
from archwright.sizing.model.architecture import attention_flops
from archwright.sizing.model.numeric_precision import matmul_rate
from archwright.sizing.step_time import fitted_tables
from archwright.sizing.step_time.boosted_trees import sum_trees
from archwright.sizing.step_time.step_work import BUS_BYTES_PER_S
from archwright.sizing.training import training_memory

# Network between machines per accelerator and direction: a 400 Gbit/s port.
FABRIC_BYTES_PER_S = 50e9
DEVICES_PER_MACHINE = 8
ASSUMED_SEQUENCE = 4096.0
TRAINING_PRECISION = "bf16"
FLOPS_FULL, FLOPS_ADAPTERS, FLOPS_RECOMPUTE = 6.0, 4.0, 2.0
# Traffic of Adam per trained value: gradient and weights in 16 bits, read and written; 32-bit copy and two moments.
UPDATE_BYTES = 28.0
# Rate at which "ea" is quoted: attention kernels reach a smaller share of faster devices.
REFERENCE_RATE = 312e12
_NUMBERED = re.compile(r"\b(TP|PP|CP|VP|EP|MBS|GA|FSDP|micro|accum)\s*(\d+)", re.IGNORECASE)


class TrainingQuery(Record):
    """Training run as a benchmark row or a user states it."""

    model: str
    accelerator: str
    devices: int = 0
    parameters: float | None = None
    active_parameters: float | None = None
    sequence_tokens: float | None = None
    batch_tokens: float | None = None
    tokens: float | None = None
    precision: str = ""
    parallelism: str = ""
    recompute: str = ""
    framework: str = ""


class TrainingJob(NamedTuple):
    """Resolved inputs of the coefficients; the defaults are those of one device without parallelism.

    `ep`: expert ranks; `adapters`: only adapters are trained; `packed`: the frozen weights have 4 bits."""

    model: ModelSpec
    accelerator: Accelerator
    format: str
    parameters: float
    active: float
    sequence: float
    rate: float
    wide_rate: float
    link: float
    micro_tokens: float
    step_tokens: float = math.inf
    devices: int = 1
    bubble: float = 1.0
    recompute: float = 0.0
    tp: int = 1
    ep: int = 1
    sharded: bool = False
    compiled: bool = True
    adapters: bool = False
    packed: bool = False
    framework: str = ""
    weak: tuple[str, ...] = ()

    @property
    def expert_parameters(self) -> float:
        return training_memory.count_expert_parameters(self.model, self.parameters, self.active)


class TokenTime(NamedTuple):
    """Device-seconds per token; `weak`: what makes the prediction weak."""

    seconds: Estimate
    stratum: str
    weak: tuple[str, ...]


class TokenTerms(NamedTuple):
    """Seconds per token and device at coefficients of 1 (formula above); the fit puts an array over rows in each."""

    products: float
    narrow_products: float
    experts: float
    narrow_experts: float
    attention: float
    lateness: float
    traffic: float
    updates: float
    launches: float
    unpacking: float
    shards: float
    tensor: float
    dispatch: float
    gain: float
    bubble: float
    eager: float


def resolve_training_job(asked: TrainingQuery, subjects: BenchmarkNameResolver) -> TrainingJob:
    """Resolve a stated run. Raises CatalogError AW-CAT-01 if a name has no row."""
    accelerator = subjects.accelerator(asked.accelerator)
    model, weak = serving_prediction.resolve_model(asked.model, (asked.parameters, asked.active_parameters), subjects)
    if not asked.parallelism:
        weak.append("parallelism is not stated")
    sequence = asked.sequence_tokens or ASSUMED_SEQUENCE
    job = build_training_job(model, accelerator, sequence, parse_training_precision(asked.precision))
    parameters = asked.parameters or float(model.parameters)
    stated = f"{asked.parallelism} {asked.framework}".lower()
    job = job._replace(
        parameters=parameters,
        active=min(asked.active_parameters or float(model.active_parameters), parameters),
        step_tokens=asked.batch_tokens or math.inf,
        compiled="eager" not in asked.precision.lower(),
        adapters="lora" in stated,
        packed="qlora" in stated or "nf4" in asked.precision.lower(),
        framework=re.split(r"[ ,(]", asked.framework.lower())[0],
        weak=tuple(weak),
    )
    return _read_layout(job, asked, training_memory.device_memory_budget(accelerator, subjects.catalog))


def _read_layout(job: TrainingJob, asked: TrainingQuery, space: float) -> TrainingJob:
    """Return the job with its stated ranks; unstated micro-batches follow from the tokens of a step.

    Unstated recomputation is the least that fits `space` bytes of a device."""
    ranks = read_ranks(asked.parallelism)
    tensor, stages, context = (ranks.get(name, 1) for name in ("tp", "pp", "cp"))
    devices = max(asked.devices, 1)
    data = max(devices // (tensor * stages * context), 1)
    known = math.isfinite(job.step_tokens)
    share, rounds = job.step_tokens / data if known else job.sequence, ranks.get("ga")
    tokens = job.sequence * ranks.get("mbs", 1)
    if "mbs" not in ranks and stages == 1:
        tokens = max(share / (rounds or 1), 1.0)
    waves = max(share / tokens, 1.0) if known else float(rounds or 8)
    unsharded = "fsdp0" in asked.parallelism.lower() or (stages > 1 and ranks.get("fsdp", 1) == 1)
    stage = 3 if data * context > 1 and not unsharded else 1
    experts = ranks.get("ep", training_memory.expert_ranks(job.model, data * context))
    text, micro = asked.recompute.lower(), round(tokens / job.sequence) or 1
    recompute = "selective" if "selective" in text else "full" if text in ("true", "full", "yes", "1") else "none"
    if not text:
        ranks_of = (tensor * context, stages, data, stage, micro, round(waves), "none", experts)
        subject = training_memory.TrainableModel(job.model, job.sequence, job.adapters, job.packed)
        fitting = training_memory.fit_recompute(subject, training_memory.ParallelScheme(*ranks_of), space)
        recompute = fitting[0].recompute if fitting else "full"
    return job._replace(
        link=job.link if devices <= max(job.accelerator.scale_up_domain, DEVICES_PER_MACHINE) else FABRIC_BYTES_PER_S,
        devices=devices,
        micro_tokens=tokens / context,
        bubble=1 + (stages - 1) / (waves * ranks.get("vp", 1)),
        recompute=training_memory.RECOMPUTE_SHARES[recompute],
        tp=tensor,
        ep=experts,
        sharded=stage == 3,
    )


def read_ranks(layout: str) -> dict[str, int]:
    """Return the sizes that a layout states: tp, pp, cp, ep, fsdp, vp, and mbs (micro), ga (accum)."""
    spelled = {"micro": "mbs", "accum": "ga"}
    found = ((name.lower(), max(1, min(int(size), 100_000))) for name, size in _NUMBERED.findall(layout))
    return {spelled.get(name, name): size for name, size in found}


def build_training_job(
    model: ModelSpec, accelerator: Accelerator, sequence: float, number: str = TRAINING_PRECISION
) -> TrainingJob:
    """Return the job on one device without parallelism; parallel_strategy.py places it."""
    return TrainingJob(
        model=model,
        accelerator=accelerator,
        format=number,
        parameters=float(model.parameters),
        active=float(min(model.active_parameters, model.parameters)),
        sequence=sequence,
        rate=matmul_rate(accelerator, number),
        wide_rate=matmul_rate(accelerator, TRAINING_PRECISION),
        link=accelerator.scale_up_bytes_per_s or BUS_BYTES_PER_S,
        micro_tokens=sequence,
    )


def parse_training_precision(precision: str) -> str:
    text = precision.lower()
    return "fp8" if "fp8" in text or "float8" in text else "fp32" if "fp32" in text else TRAINING_PRECISION


def token_terms(job: TrainingJob) -> TokenTerms:
    model, bandwidth, again = job.model, job.accelerator.memory_bandwidth_bytes_per_s, 1 + job.recompute / 3
    flops = (FLOPS_ADAPTERS if job.adapters else FLOPS_FULL) + FLOPS_RECOMPUTE * job.recompute
    every = job.expert_parameters
    routed = every * model.experts_active / model.experts if every else 0.0
    slow = min(job.rate, job.wide_rate)
    products, experts = flops * (job.active - routed) / slow, flops * routed / slow
    gathered = job.parameters - every + every / job.ep
    inside = job.accelerator.scale_up_bytes_per_s or BUS_BYTES_PER_S
    trained = 0.0 if job.adapters else job.parameters
    return TokenTerms(
        products=products,
        narrow_products=products / job.model.hidden,
        experts=experts,
        narrow_experts=experts / (model.expert_ffn or model.hidden),
        attention=3 * again * attention_flops(model, job.sequence / 2) / job.wide_rate,
        lateness=job.wide_rate / REFERENCE_RATE,
        traffic=again * job.model.layers * training_memory.count_activation_bytes(model) / bandwidth,
        updates=UPDATE_BYTES * trained / job.step_tokens / bandwidth,
        launches=job.model.layers * job.tp / job.micro_tokens,
        unpacking=2 * job.parameters / job.micro_tokens / bandwidth if job.packed else 0.0,
        shards=2 * gathered / job.micro_tokens / job.link if job.sharded else 0.0,
        tensor=2 * job.model.layers * job.model.hidden * (job.tp - 1) / inside,
        dispatch=_dispatch_s(job) if every else 0.0,
        gain=max(job.rate / job.wide_rate, 1.0),
        bubble=job.bubble,
        eager=0.0 if job.compiled else 1.0,
    )


def _dispatch_s(job: TrainingJob) -> float:
    """Return the seconds in which a token's activations reach its experts and return, forward and backward.

    Within a scale-up domain each expert gets a copy; between domains each domain gets one (DeepEP)."""
    spans = math.ceil(job.ep / max(job.accelerator.scale_up_domain, 1))
    copies = min(job.model.experts_active, spans if spans > 1 else job.ep) * (1 - 1 / job.ep)
    inside = job.accelerator.scale_up_bytes_per_s or BUS_BYTES_PER_S
    link = inside if spans == 1 else min(job.link, FABRIC_BYTES_PER_S)
    return 4 * job.model.layers * copies * job.model.hidden * 2 / link


def sum_terms(terms: TokenTerms, k: Mapping[str, float]) -> float:
    """Return the device-seconds per token with the fitted coefficients `k`."""
    products, attention, moved, sent = group_terms(terms, k)
    slower: float = terms.bubble * k["eager"] ** terms.eager
    return (products + attention + moved + sent) * slower


def group_terms(terms: TokenTerms, k: Mapping[str, float]) -> tuple[float, float, float, float]:
    """Return the seconds of products, of attention, of memory traffic and of exchange."""
    dense = terms.products + k["d0"] * terms.narrow_products
    experts = k["moe"] * terms.experts + k["x0"] * terms.narrow_experts
    products: float = (dense + experts) / k["e"] / terms.gain ** k["narrow"]
    attention: float = terms.attention / k["ea"] * terms.lateness ** k["late"]
    moved = k["act"] * terms.traffic + k["adam"] * terms.updates + k["launch"] * terms.launches
    sent = k["gather"] * terms.shards + k["ex"] * terms.tensor + k["send"] * terms.dispatch
    return products, attention, moved + k["unpack"] * terms.unpacking, sent


def extract_training_features(job: TrainingJob, k: Mapping[str, float]) -> list[float]:
    """Return the features of the residual trees; their order is part of the fitted table."""
    terms = token_terms(job)
    products, *others = group_terms(terms, k)
    return [
        math.log(job.active),
        math.log(job.model.hidden),
        math.log(job.sequence),
        math.log(job.micro_tokens),
        math.log(job.devices),
        job.recompute,
        float(job.format == "fp8"),
        math.log(job.wide_rate),
        math.log(job.accelerator.memory_bandwidth_bytes_per_s),
        math.log(job.active / job.parameters),
        math.log(job.tp),
        math.log(job.bubble),
        job.accelerator.memory_bytes / 2**30,
        math.log(products / (terms.products + terms.experts)),
        *(math.log1p(seconds / products) for seconds in others),
    ]


def classify_training_stratum(job: TrainingJob, seen: Mapping[str, tuple[str, ...]]) -> str:
    """Return the stratum. A run of software outside the fit counts as an unseen source, whatever its model."""
    seen_model = serving_prediction.model_identity(job.model) in seen["model"]
    if job.accelerator.id in seen["accelerator"]:
        # Software without a fitted row, as a plan has it.
        return NEW_SOURCE if job.framework not in seen["framework"] else SEEN if seen_model else NEW_MODEL
    return NEW_ACCELERATOR if seen_model else NEW_BOTH


def classify_training_regime(job: TrainingJob) -> str:
    return "adapters" if job.adapters else "sparse models" if job.expert_parameters else "dense models"


def list_training_distances(job: TrainingJob, fit: fitted_tables.FittedTable, catalog: Catalog) -> tuple[str, ...]:
    """Return what no fitted row has, one text each; each widens the band as a weak row does."""
    rows = (catalog.accelerators.get(name) for name in fit.seen["accelerator"])
    found = []
    if job.accelerator.vendor not in {row.vendor for row in rows if row is not None}:
        found.append(f"no fitted row is of a device of {job.accelerator.vendor}")
    if f"{classify_training_regime(job)} {job.format}" not in fit.seen["regime"]:
        found.append(f"no fitted row is of {classify_training_regime(job)} in {job.format}")
    return tuple(found)


def band_token_time(job: TrainingJob, seconds: tuple[float, float], stratum: str, catalog: Catalog) -> TokenTime:
    """Return the device-seconds per token with the band of stratum and regime.

    `seconds`: of the physics, which the residual trees correct on devices of the fit, and the least possible."""
    (value, least), fit = seconds, fitted_tables.load_table("training")
    if stratum not in (NEW_ACCELERATOR, NEW_BOTH):
        features = extract_training_features(job, fit.coefficients["token"])
        value *= math.exp(sum_trees(fit.residuals["token"], features))
    weak = (*job.weak, *list_training_distances(job, fit, catalog))
    widening = serving_prediction.widen_for_distance(len(weak), job.accelerator, catalog)
    band = serving_prediction.find_error_band(fit, ("token_s", stratum, classify_training_regime(job)), widening)
    return TokenTime(band.scaled(max(value, least), unit="s"), stratum, weak)


def predict_stated_run(asked: TrainingQuery, subjects: BenchmarkNameResolver) -> TokenTime:
    """Predict the speed of a stated run. Raises CatalogError AW-CAT-01 if a name has no row."""
    fit, job = fitted_tables.load_table("training"), resolve_training_job(asked, subjects)
    seconds = sum_terms(token_terms(job), fit.coefficients["token"])
    return band_token_time(job, (seconds, 0.0), classify_training_stratum(job, fit.seen), subjects.catalog)
