"""The record types of the catalog, one per table. SI units inside; money in USD as the source states it.

Every record carries its source and, from it, `as_of` (empty when the source is undated) and `confidence`.
An undated row counts as `recalled`. A price or a rate a source does not state is None, never a guess.
"""

from __future__ import annotations

from typing import Literal

from archwright.contract.estimate import Estimate, within_factor
from archwright.contract.lineage import Task
from archwright.contract.record import Record

Confidence = Literal["high", "medium", "low", "recalled"]
Layer = Literal["user", "measured", "refreshed", "shipped", "derived"]
Commercial = Literal["yes", "conditional", "no"]
DeviceKind = Literal["gpu", "asic", "cpu"]
EngineKind = Literal["cpu", "gpu", "any"]
PriceKind = Literal["list", "derived", "user"]
DataZone = Literal["EEA", "adequacy", "third-country"]
AliasKind = Literal["accelerator", "model", "word", "provider", "charge"]

# How far a figure may be off each way (90 %). Anchored on list prices: 738 of 741 did not move in two to three
# years (high), third-party purchase prices spread by 20 to 40 % (low), recalled ones are a step beyond.
BAND: dict[Confidence, float] = {"high": 1.1, "medium": 1.25, "low": 1.5, "recalled": 1.6}


class Fact(Record):
    """What every row states about itself."""

    source: str
    as_of: str = ""
    confidence: Confidence = "recalled"
    notes: str = ""

    def band(self, value: float, unit: str) -> Estimate:
        """`value`, a figure of this row, with the band its confidence earns."""
        return within_factor(value, BAND[self.confidence], unit)


class Accelerator(Fact):
    """One device as software sees it; `flops`: dense FLOP/s per dtype; `memory_bytes`: 0 for a processor."""

    id: str
    vendor: str
    arch: str
    form: str
    kind: DeviceKind
    memory_bytes: int
    memory_marketing: str
    memory_bandwidth_bytes_per_s: float
    flops: dict[str, float]
    sparsity: bool
    scale_up: str
    scale_up_bytes_per_s: float | None
    scale_up_domain: int
    host_link: str
    tdp_w: float | None
    price_low_usd: float | None = None
    price_high_usd: float | None = None
    price_basis: str = ""


class Offer(Fact):
    """One machine type at one provider in one region. `accelerator_count` is 0 without an accelerator.

    `spot_usd_per_hour` is None where the source has no spot price, and where it equals the list price: the region then
    has no spot market. `accelerator_share` below 1 means a slice of a device.
    """

    id: str
    provider: str
    region: str
    geo: str
    instance_type: str
    accelerator: str | None
    accelerator_count: int
    accelerator_share: float
    vcpu: int
    ram_bytes: int
    arch: str
    local_nvme_bytes: int | None
    network_bytes_per_s: float | None
    network_note: str
    on_demand_usd_per_hour: float | None
    spot_usd_per_hour: float | None
    commit_1y_usd_per_hour: float | None
    commit_3y_usd_per_hour: float | None
    price_kind: PriceKind
    spec_source: str
    spec_as_of: str


class ModelSpec(Fact):
    """An open model: architecture, licence, quality. `ffn` is the dense width, `expert_ffn` that of one expert.

    `kv_bytes_per_token_bf16` counts every layer that keeps keys and values as if it saw the whole context; latent
    and linear attention are already in it. With a `sliding_window`, only `full_attention_layers` of `layers` grow
    beyond the window. None where the form of attention gives no constant per token.
    `quality` maps a benchmark to a share; of several reports the lowest counts, since it is used as a floor.
    `published_format` is that of the checkpoint its maker publishes; empty where 16 bits or not known.
    """

    id: str
    org: str
    parameters: int
    active_parameters: int
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int | None
    experts: int
    experts_active: int
    expert_ffn: int | None
    shared_experts: int
    vocabulary: int
    context_tokens: int
    attention: str
    full_attention_layers: int
    sliding_window: int | None
    kv_lora_rank: int | None
    kv_bytes_per_token_bf16: int | None
    licence: str
    commercial_use: Commercial
    licence_conditions: str
    released: str
    quality: dict[str, float]
    published_format: str = ""


class QualityScore(Fact):
    """One reported score; methods differ, so scores are kept apart and never averaged."""

    model: str
    benchmark: str
    score: float
    method: str
    reported_by: str
    original_source: str


class HostedModel(Fact):
    """Price of a hosted model per token. `agrees` is None where no second source knows the model."""

    provider: str
    id: str
    input_usd_per_token: float
    output_usd_per_token: float
    cache_read_usd_per_token: float | None
    cache_write_usd_per_token: float | None
    batch_input_usd_per_token: float | None
    batch_output_usd_per_token: float | None
    context_tokens: int | None
    output_tokens: int | None
    deprecation_date: str
    successor: str
    agrees: bool | None
    second_input_usd_per_token: float | None
    second_output_usd_per_token: float | None


class ExchangeRate(Fact):
    """`rate` units of `quote` for one `base`; low and high of the last twelve months."""

    base: str
    quote: str
    rate: float
    low_12m: float
    high_12m: float


class Region(Fact):
    """`data_zone` is the legal zone for personal data: EEA, adequacy or third-country."""

    provider: str
    region: str
    country: str
    city: str
    data_zone: DataZone
    grid_gco2_per_kwh: float | None = None


class Country(Fact):
    """`places` are the groups it belongs to; `alpha3` only where another table uses that code."""

    country: str
    alpha3: str
    name: str
    places: tuple[str, ...]


class EnergyTariff(Fact):
    """`area` is a state ("US-VA"), empty for the country. Source, date and confidence are those of the price."""

    country: str
    area: str
    industrial_usd_per_kwh: float | None = None
    commercial_usd_per_kwh: float | None = None
    grid_gco2_per_kwh: float | None = None
    grid_year: str = ""
    grid_source: str = ""


class ControlRule(Record):
    """A clause, what it demands, our feature that answers it, what proves the feature works."""

    clause: str
    demand: str
    feature: str
    evidence: str = ""
    tier: str = ""
    hours: float | None = None


class Deadline(Record):
    date: str
    what: str
    was: str = ""


class Fine(Record):
    max_eur: float
    max_turnover_share: float
    clause: str


class Regulation(Fact):
    id: str
    name: str
    controls: tuple[ControlRule, ...]
    applies_when: tuple[str, ...] = ()
    deadlines: tuple[Deadline, ...] = ()
    fine: Fine | None = None


class ResidencyRule(Fact):
    jurisdiction: str
    rule: str
    planner: str


class EngineSpec(Fact):
    """How an engine is watched: `metrics` maps our quantity to its series, `metric_labels` our label to its own.

    `metrics_older` are the names a quantity had in earlier versions of the engine, newest first.
    """

    id: str
    product: str
    licence: str
    kind: EngineKind
    openai_http: bool
    embedded: bool
    health_path: str
    quantisations: tuple[str, ...] = ()
    metrics: dict[str, str] = {}
    metrics_older: dict[str, tuple[str, ...]] = {}
    metric_labels: dict[str, str] = {}


class Efficiency(Fact):
    """What share of a machine's probed rates an engine reaches; "*" stands for any.

    A predicted time lies in [value / low_factor, value * high_factor]; both factors are at least 1.
    `decode_share_of_matmul` holds below `batched_from` tokens computed together, `_batched` from there on;
    `attention_share_of_matmul` is that of generated tokens' attention. Memory: the weights' file plus
    `memory_overhead_bytes` plus the KV cache, at peak (1 + `memory_peak_share`) of that.
    """

    engine: str
    quantisation: str
    isa: str
    kind: EngineKind
    prefill_share_of_matmul: float
    decode_share_of_matmul: float
    decode_share_of_matmul_batched: float
    batched_from: int
    attention_share_of_matmul: float
    decode_share_of_bandwidth: float
    low_factor: float
    high_factor: float
    memory_overhead_bytes: int
    memory_peak_share: float
    startup_s: float


class TrainingEfficiency(Fact):
    """What share of a machine's probed matrix rate the training of a task reaches, and what its process holds.

    `isa` "*" stands for any; "-bf16" behind one says that the processor multiplies that format itself. Fixed figures
    are what a step costs beside its arithmetic, in FLOPs of one thread of the probe: as a whole, for each layer or
    tree, for each unit (the loop puts a row in its place). The first step's arithmetic costs `first_steps` others
    more. What a step holds takes (1 + `memory_step_share`) of it.
    A predicted time lies in [value / low_factor, value * high_factor], a predicted memory within its own factors.
    """

    task: Task
    isa: str
    dtype: str
    share_of_matmul: float
    attention_share_of_matmul: float
    first_steps: float
    fixed_flops: float
    fixed_flops_per_layer: float
    fixed_flops_per_unit: float
    low_factor: float
    high_factor: float
    process_bytes: int
    memory_step_share: float
    memory_low_factor: float
    memory_high_factor: float


class Alias(Fact):
    """Another name of a row or provider; a `word` (of a product line, a memory type) tells no row from another; a
    `charge` is what a bill calls a family of machines or an accelerator.
    """

    kind: AliasKind
    name: str
    id: str


class DeviceTool(Fact):
    """A program that lists accelerators, one per line: name, memory in units of `memory_unit_bytes`."""

    program: str
    arguments: tuple[str, ...]
    memory_unit_bytes: int


class Quantisation(Fact):
    """Mean bits a weight takes in a file of this form, scales included."""

    quantisation: str
    bits_per_weight: float
