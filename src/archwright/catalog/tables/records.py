"""The record types of the catalog, one per table, in SI units and in USD as the source states it.

Every record has its source, the source's date `as_of` (empty if undated) and `confidence`; an undated row counts as
`recalled`. A price or a rate that the source does not state is None, never a guess.
"""

import re
from typing import Literal

from archwright.contract.estimate import Estimate, within_factor
from archwright.contract.lineage import Task
from archwright.contract.record import Record, as_dict

Confidence = Literal["high", "medium", "low", "recalled"]
Layer = Literal["user", "measured", "refreshed", "shipped", "derived"]
Commercial = Literal["yes", "conditional", "no"]
DeviceKind = Literal["gpu", "soc", "asic", "cpu"]
EngineKind = Literal["cpu", "gpu", "any"]
PriceKind = Literal["list", "derived", "user"]
DataZone = Literal["EEA", "adequacy", "third-country"]
AliasKind = Literal["accelerator", "model", "word", "provider", "charge"]
ScoreTable = Literal["open", "hosted"]
ScoreUnit = Literal["share", "rating", "rank"]
Independent = Literal["yes", "no", "unknown"]

# Factor by which a figure may be off each way (90 %). Sources: 738 of 741 list prices did not change in two to three
# years (high); third-party purchase prices spread by 20 to 40 % (low); recalled prices are one step wider.
BAND: dict[Confidence, float] = {"high": 1.1, "medium": 1.25, "low": 1.5, "recalled": 1.6}


class Fact(Record):
    """The source of a row, its date, its confidence and notes."""

    source: str
    as_of: str = ""
    confidence: Confidence = "recalled"
    notes: str = ""

    def band(self, value: float, unit: str) -> Estimate:
        """Return `value`, a figure of this row, with the band of its confidence."""
        return within_factor(value, BAND[self.confidence], unit)


class Accelerator(Fact):
    """One device. `flops`: dense FLOP/s per dtype; `memory_bytes`: usable by software, 0 for a processor.

    `memory_kind`: HBM, GDDR, LPDDR or DDR."""

    id: str
    vendor: str
    arch: str
    form: str
    kind: DeviceKind
    memory_bytes: int
    memory_marketing: str
    memory_bandwidth_bytes_per_s: float
    memory_kind: str
    flops: dict[str, float]
    sparsity: bool = False
    scale_up: str = ""
    scale_up_bytes_per_s: float | None = None
    scale_up_domain: int = 1
    host_link: str = ""
    tdp_w: float | None = None
    price_low_usd: float | None = None
    price_high_usd: float | None = None
    price_basis: str = ""

    @property
    def is_memory_shared(self) -> bool:
        """True if the processor and its programs use the same memory."""
        return "unified" in self.memory_marketing


class Offer(Fact):
    """One machine type at one provider in one region. `accelerator_count` is 0 without an accelerator.

    `spot_usd_per_hour` is None if the source has no spot price, or one equal to the list price: then the region has no
    spot market. `accelerator_share` below 1 means a slice of a device.
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
    """An open model: architecture, licence, quality. `ffn`: dense width, `expert_ffn`: width of an expert.

    `kv_bytes_per_token_bf16` counts every layer with keys and values as if it attended to the whole context; it
    includes latent and linear attention. With a `sliding_window`, only `full_attention_layers` of `layers` grow beyond
    the window. None if the attention has no constant size per token.
    `quality` maps a benchmark to the lowest reported share, since plans use it as a minimum.
    `published_format` is the format of the maker's checkpoint; empty if 16 bits or unknown. `languages`: those that its
    maker states, by ISO 639-1; empty if unknown.
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
    languages: tuple[str, ...] = ()


class DraftModel(Fact):
    """The draft of a model for speculative decoding: layers of the model itself ("mtp"), or a `repository`."""

    model: str
    method: str
    repository: str
    draft_tokens: int


class ServingParsers(Fact):
    """Names of the parsers that take reasoning and tool calls out of a model's text; empty without one.

    Without them a client gets the reasoning as the answer, and a request with tools is refused.
    """

    model: str
    reasoning_parser: str = ""
    tool_parser: str = ""


class HubModel(Fact):
    """The places of a popular model on the hub: the maker's repository, and one with GGUF files of `quantisations`.

    `template`: the chat template's family. `tool_format`, `reasoning_format`: how the model writes tool calls and its
    reasoning; empty if it does not. Its chat template adds about `template_tokens` to a prompt.
    """

    model: str
    family: str
    repository: str
    gguf_repository: str
    quantisations: tuple[str, ...]
    template: str
    tool_format: str = ""
    reasoning_format: str = ""
    template_tokens: int = 0


class Benchmark(Fact):
    """A benchmark measures one `axis` of quality, as a share, a rating (Elo) or a mean rank (1 is best).

    `estimated`: whether other scores of a model predict this one. `spread`: the 90th percentile of the differences
    between rows of one cell, over `pairs` pairs; with few pairs, that of all benchmarks of shares.
    """

    id: str
    axis: str
    unit: ScoreUnit
    estimated: Literal["yes", "no"]
    spread: float | None
    pairs: int


class QualityScore(Fact):
    """One reported score; methods differ, so scores are never averaged.

    A shipped row is the best of the `rows` usable rows of its cell, which lie in [low, high]; with one row that range
    is the benchmark's spread. `table`: which models it concerns; `licence`: the source's.
    """

    model: str
    benchmark: str
    score: float
    method: str
    reported_by: str
    original_source: str
    table: ScoreTable = "open"
    low: float | None = None
    high: float | None = None
    rows: int = 1
    independent: Independent = "unknown"
    licence: str = ""


class ScoreEstimate(Fact):
    """A score predicted from `scores_used` others of the model, none of the same benchmark; 90 % in [low, high]."""

    model: str
    table: ScoreTable
    benchmark: str
    value: float
    low: float
    high: float
    scores_used: int
    method: str


class HostedModel(Fact):
    """Price of a hosted model per token. `agrees` is None if no second source has the model.

    `places`: countries or groups in which this row's price processes data; empty: as its provider (hosted_facts.csv).
    `scores_of`: the id of the open or hosted model with the same weights whose scores count; empty: its own.
    """

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
    places: tuple[str, ...] = ()
    scores_of: str = ""


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
    """`places` are the groups of the country; `alpha3` is set only if another table uses that code.

    `time_zone`: of its largest cities, a name of the tz database.
    """

    country: str
    alpha3: str
    name: str
    places: tuple[str, ...]
    time_zone: str


class EnergyTariff(Fact):
    """`area` is a state ("US-VA") or empty. Source, date and confidence are those of the price."""

    country: str
    area: str
    industrial_usd_per_kwh: float | None = None
    commercial_usd_per_kwh: float | None = None
    grid_gco2_per_kwh: float | None = None
    grid_year: str = ""
    grid_source: str = ""


class ControlRule(Record):
    """A clause, its demand, the features that meet it (separated by commas), and the evidence that they work.

    `owner`: the role that answers for the demand.
    """

    clause: str
    demand: str
    feature: str
    owner: str
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
    """How an engine is started and asked for its health. `program`: its name on PATH, installed by `install`.

    A start takes `startup_s` and reads its weights at `load_bytes_per_s`. An installed server listens on `port`;
    `parallel_setting` bounds its concurrent requests. `option_flags`: flags by engine option, `parser_flags`: by field
    of ServingParsers; `parser_names`: by field, this engine's name of each parser, where its names differ; it lacks the
    others. `memory_flag` limits its memory. `served_by`: the engine whose image serves in containers, if this one runs
    only in our own processes.
    """

    id: str
    product: str
    licence: str
    kind: EngineKind
    openai_http: bool
    embedded: bool
    health_path: str
    quantisations: tuple[str, ...] = ()
    program: str = ""
    install: str = ""
    startup_s: float = 0.0
    load_bytes_per_s: float = 0.0
    port: int = 0
    parallel_setting: str = ""
    option_flags: dict[str, str] = {}
    parser_flags: dict[str, str] = {}
    parser_names: dict[str, dict[str, str]] = {}
    memory_flag: str = ""
    served_by: str = ""

    def __hash__(self) -> int:
        return hash((self.id, self.source))

    def list_parser_flags(self, parsers: ServingParsers | None) -> tuple[str, ...]:
        """Return the flags by which this engine takes reasoning and tool calls out of a model's text."""
        if parsers is None:
            return ()
        names = as_dict(parsers)
        for field, translated in self.parser_names.items():
            names[field] = translated.get(names[field], "")
        used = (field for field in self.parser_flags if names[field])
        return tuple(self.parser_flags[field].format(**names) for field in used)

    def estimate_startup_s(self, weight_bytes: float, accelerators: int) -> float:
        """Return the time until the engine answers; each accelerator reads its own part of the weights."""
        rate = self.load_bytes_per_s * max(1, accelerators)
        return self.startup_s + (weight_bytes / rate if rate else 0.0)


class EngineMetric(Fact):
    """The name of a quantity in an engine's versions from `since` (empty: the first) to before `until`.

    `quantity` is one of contract/metrics.py, or known to engines only: waiting, kv_share, preemptions, prefix_queries,
    prefix_hits. `labels`: "ours=theirs" for each label with another name. `notes` say what a user must know.
    """

    engine: str
    quantity: str
    series: str
    since: str = ""
    until: str = ""
    labels: str = ""
    notes: str = ""

    def covers(self, version: str) -> bool:
        """True if the name holds in this version; an empty version is the newest."""
        if not version:
            return not self.until
        number = parse_version(version)
        if self.since and number < parse_version(self.since):
            return False
        return not self.until or number < parse_version(self.until)


def parse_version(text: str) -> tuple[int, ...]:
    """Return the numbers of a version: (0, 11, 0) for "v0.11.0", (9445,) for "b9445"."""
    return tuple(int(number) for number in re.findall(r"\d+", text))


class Component(Fact):
    """A product that a bundle installs, with the version it was written for.

    `image` is the reference with its tag, `digest` that of the image if a source states it. `install` names chart or
    manifest with its version. `kubernetes`: supported versions in words. `engine`: the engine of `engines.yaml` that
    the image runs, `accelerators`: the vendor it is built for. `traps`: what a user must know before an upgrade.
    """

    id: str
    product: str
    purpose: str
    version: str
    released: str
    image: str = ""
    digest: str = ""
    install: str = ""
    kubernetes: str = ""
    licence: str
    engine: str = ""
    accelerators: str = ""
    traps: str = ""


class Efficiency(Fact):
    """The share of a machine's probed rates that an engine reaches; "*" matches any key.

    A predicted time lies in [value / low_factor, value * high_factor]; both factors are at least 1.
    `decode_share_of_matmul` applies to batches of fewer than `batched_from` tokens, `_batched` to larger ones;
    `attention_share_of_matmul` to the attention of generated tokens. Memory: weights file + KV cache +
    `memory_overhead_bytes` + compute buffers; the peak exceeds the last three by `memory_peak_share` at most twice.
    An engine starts within `startup_s` + weights / `load_bytes_per_s` (file in the page cache); without a rate,
    `startup_s` includes the weights. `most_flops_per_s`: rate that the engine nears on many cores.
    `build`, `processor`, `threads`: where the row was measured, in the words of an EngineReport; empty for a row that
    was fitted over several processors.
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
    load_bytes_per_s: float | None = None
    most_flops_per_s: float | None = None
    build: str = ""
    processor: str = ""
    threads: int | None = None


class TrainingEfficiency(Fact):
    """The share of a machine's probed matrix rate that training of a task reaches, and its memory.

    `isa` "*" matches any; the suffix "-bf16" means that the processor multiplies that format itself. The fixed figures
    are the cost of a step beside its arithmetic, in FLOPs of one thread of the probe: per step, per layer or tree, per
    unit (the loop moves a row to its place). The arithmetic of the first step costs that of `first_steps` more steps.
    The memory of a step is (1 + `memory_step_share`) times the size of its data.
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
    """Another name of a row or provider.

    A `word` (of a product line, a memory type) does not distinguish rows. A `charge` is the name of a machine family
    or accelerator in a billing catalogue.
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
    """Mean bits per weight in a file of this format, including scales.

    `fallback`: the format of most weights if the model's width is no multiple of the format's block.
    """

    quantisation: str
    bits_per_weight: float
    fallback: str = ""
