"""Needs: the requirements of an organisation, as stated in `needs.yaml`.

Field names are the contract with users and never change. A plan lists every default that it used in its assumptions.
The package `needs` checks names that refer to something (models, providers, data sets).
"""

from typing import Literal

from archwright.contract.estimate import Estimate
from archwright.contract.record import Record

WorkloadKind = Literal[
    "chat",
    "rag",
    "completion",
    "embedding",
    "batch-text",
    "image-classification",
    "tabular-prediction",
    "forecast",
    "rerank",
    "speech-to-text",
    "vision-language",
    "document-parsing",
    "finetune",
    "pretrain",
    "data-processing",
]
TEXT_KINDS: frozenset[str] = frozenset({"chat", "rag", "completion", "batch-text", "vision-language"})
TRAINING_KINDS: frozenset[str] = frozenset({"finetune", "pretrain"})
SERVING_KINDS: frozenset[str] = TEXT_KINDS | {
    "embedding",
    "rerank",
    "speech-to-text",
    "image-classification",
    "tabular-prediction",
    "forecast",
}
Sensitivity = Literal["public", "internal", "personal", "health", "payment"]
# Sensitive data about people.
PRIVATE_SENSITIVITIES: frozenset[Sensitivity] = frozenset({"personal", "health", "payment"})
Modality = Literal["text", "image", "audio"]
SLOPreset = Literal["interactive", "reading", "background"]
Role = Literal["platform", "machine-learning", "data", "security", "support"]
Period = Literal["day", "week", "month", "quarter"]
Placement = Literal["on-premises", "cloud", "hybrid", "hosted-api", "serverless", "this-machine"]


class Organisation(Record):
    """`team`: full-time equivalents by role that exist already, for example {"security": 0.5}."""

    name: str
    country: str
    employees: int | None = None
    sector: str | None = None
    platform_engineers: float | None = None
    team: dict[str, float] = {}


class Goal(Record):
    text: str
    value_per_month: float | None = None


class RequestRate(Record):
    mean: float
    peak: float


class TokenLength(Record):
    """A token length: mean and 95th percentile; sampled as a log-normal."""

    mean: float
    p95: float


class Traffic(Record):
    """Load of one workload; which fields apply depends on the workload's kind.

    `users` (people who use the workload on a working day) or `documents` (per `refresh`) replace `requests_per_second`:
    `needs` converts them, so that later code finds requests, token lengths, hours and deadlines in every Traffic.
    `requests_per_user_day` counts conversations if the kind has `turns`: requests of a conversation, each with the
    conversation so far in its prompt. `agent_steps`: model calls per request of a user. `input_tokens` as the file
    states it is the prompt of the first turn and step; converted, that of the mean model call. A request of kind rerank
    has the tokens of all its pairs. `shared_prefix_share`: share of the prompt tokens that is common to many requests
    of one tenant, since engines keep the prompts of tenants apart.
    `audio_s`: mean seconds of audio in a request or document.
    """

    requests_per_second: RequestRate | None = None
    users: float | None = None
    requests_per_user_day: float | None = None
    turns: float | None = None
    agent_steps: float | None = None
    shared_prefix_share: float | None = None
    pages_per_document: float | None = None
    audio_s: float | None = None
    input_tokens: TokenLength | None = None
    output_tokens: TokenLength | None = None
    documents: float | None = None
    tokens_per_document: float | None = None
    refresh: Period | None = None
    image_pixels: float | None = None
    parameters: float | None = None
    features: int | None = None
    gib_per_day: float | None = None
    deadline_h: float | None = None
    growth_per_year: float = 0.0
    hours_per_day: float = 24.0
    regions: dict[str, float] | None = None


# Share of the cases in which a limit must hold. Buyers with this certainty held their limits at the least cost
# (docs/accuracy.md, Regret).
DEFAULT_CERTAINTY = 0.7


class SLO(Record):
    """Service levels; `preset` fills the fields that are not set. `certainty`: the probability that each must have."""

    preset: SLOPreset | None = None
    ttft_p95_s: float | None = None
    tpot_p95_s: float | None = None
    latency_p95_s: float | None = None
    availability: float | None = None
    certainty: float = DEFAULT_CERTAINTY


class Workload(Record):
    """`languages`: ISO 639-1 codes; empty: those of its data, else the organisation's country and English."""

    name: str
    kind: WorkloadKind
    model: str | None = None
    quality: dict[str, float] = {}
    quality_unknown: Literal["refuse", "accept"] = "refuse"
    licence: Literal["any", "commercial"] = "commercial"
    traffic: Traffic | None = None
    slo: SLO = SLO()
    data: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    modalities: tuple[Modality, ...] = ()
    sites: tuple[str, ...] = ()
    base: str | None = None
    method: Literal["full", "lora"] | None = None
    tokens: float | None = None
    every: Period | None = None
    deadline_h: float | None = None
    parameters: float | None = None

    @property
    def rate(self) -> RequestRate | None:
        """The rate of online requests, None for other work."""
        return self.traffic.requests_per_second if self.traffic is not None else None

    @property
    def regions(self) -> dict[str, float]:
        """Shares of the traffic by the region it comes from; empty if not stated."""
        return (self.traffic.regions or {}) if self.traffic is not None else {}


class DataProfile(Record):
    name: str
    size_gib: float
    growth_gib_per_month: float = 0.0
    sensitivity: Sensitivity = "internal"
    residency: tuple[str, ...] = ("any",)
    retention_months: float | None = None
    languages: tuple[str, ...] = ()


class SiteGroup(Record):
    count: int
    countries: tuple[str, ...] = ()
    power_kw: float | None = None


class Site(Record):
    country: str
    power_kw: float | None = None
    rack_units: float | None = None
    electricity_usd_per_kwh: float | None = None
    tier: int | None = None


class FurtherSite(Site):
    """A further central site; `workloads`: those that it serves together with the main site, default all."""

    workloads: tuple[str, ...] = ()


class OwnedMachine(Record):
    machine: str
    count: int = 1
    age_months: float = 0.0


class PlacementNeeds(Record):
    """`site`: the main site, with the owned machines. `sites`: further central sites, by name."""

    allow: tuple[Placement, ...] = ("on-premises", "cloud", "hybrid", "hosted-api", "serverless")
    prefer: Placement | None = None
    clouds: tuple[str, ...] | None = None
    regions: tuple[str, ...] | None = None
    accelerators: tuple[str, ...] | None = None
    spot: bool = False
    site: Site | None = None
    sites: dict[str, FurtherSite] = {}
    owned: tuple[OwnedMachine, ...] = ()


class ExistingComponent(Record):
    kind: Literal["gateway", "engine", "lake", "registry", "monitoring", "training"]
    product: str
    url: str | None = None


class Budget(Record):
    """Hard limits in `currency`: `per_month` on recurring spend without staff, `capex` on purchases.

    `certainty`: the probability with which the limits of money, power and quotas must hold.
    """

    currency: str
    horizon_months: int
    per_month: float | None = None
    capex: float = 0.0
    certainty: float = DEFAULT_CERTAINTY


class Needs(Record):
    version: Literal[1]
    organisation: Organisation
    workloads: tuple[Workload, ...]
    budget: Budget
    goals: tuple[Goal, ...] = ()
    data: tuple[DataProfile, ...] = ()
    regulations: tuple[str, ...] = ()
    placement: PlacementNeeds = PlacementNeeds()
    sites: dict[str, SiteGroup] = {}
    existing: tuple[ExistingComponent, ...] = ()


class DerivedValue(Record):
    """A value that `needs` derived for a workload, with its band (90 %); the field `override` replaces it."""

    name: str
    estimate: Estimate
    reason: str
    override: str


class DerivedLoad(Record):
    """The derived values of a workload's load. `band`: actual load / planned load, 1 if the file states the load."""

    workload: str
    values: tuple[DerivedValue, ...]
    band: Estimate


class NeedsSource(Record):
    """The file of a Needs: `lines` maps a field path ("workloads[0].slo.ttft_p95_s") to its 1-based line.

    `loads` and `defaults` (a sentence each): what `needs` derived for fields that the file does not state.
    """

    file: str
    digest: str
    lines: dict[str, int]
    loads: tuple[DerivedLoad, ...] = ()
    defaults: tuple[str, ...] = ()
