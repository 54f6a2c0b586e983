"""Metadata of facts: availability of machines, facts of hosted models, ages and sources of facts."""

from typing import Literal

from archwright.catalog.tables.records import Fact

SourceKind = Literal["vendor", "api", "repo", "third_party", "measured", "derived", "assumed", "user", "recalled"]
FreshnessState = Literal["fresh", "ageing", "stale", "expired"]
HostedKind = Literal["place", "media"]
FactClass = Literal["offers", "machines", "hosted", "storage", "grid", "tariffs", "scores", "models", "accelerators"]


class RegionAvailability(Fact):
    """A provider has this machine type in this region; its list price there, if the source states it."""

    provider: str
    region: str
    instance_type: str
    on_demand_usd_per_hour: float | None


class RegionRatio(Fact):
    """Price of a machine family in a region over its price at `home`, read from the type `read_from`."""

    provider: str
    family: str
    region: str
    home: str
    ratio: float
    read_from: str


class HostedModelFact(Fact):
    """A place where a hosted model processes data, or the `media` it is made for, if not text: `name`.

    `model` "*" means all models of the provider.
    """

    provider: str
    model: str
    kind: HostedKind
    name: str


class LoadRule(Fact):
    """How what people know becomes a load: the usual value of a quantity for a kind of workload ("*": every kind)."""

    kind: str
    quantity: str
    low: float
    typical: float
    high: float
    unit: str


class SLOLimit(Fact):
    """One limit of a preset of service levels. `kind`: "chat" for kinds that stream text, "*" for the others."""

    preset: str
    kind: str
    field: str
    value: float
    unit: str


class Language(Fact):
    """A language by its ISO 639-1 code: its English name, and its own name."""

    language: str
    name: str
    own_name: str


class CountryLanguages(Fact):
    """The official languages of a country, else those in official use, the most spoken first."""

    country: str
    languages: tuple[str, ...]


class TimeToLive(Fact):
    """How a class of facts ages. `applies_to` names tables, or "table:kind" for a part of a table.

    A figure older than `ttl_days` may have drifted, at twice that age by the factors `drift_down` and `drift_up`.
    After `expires_days` (None: never) a plan does not use it for advice to buy.
    """

    id: str
    ttl_days: int
    expires_days: int | None
    drift_down: float
    drift_up: float
    applies_to: tuple[str, ...]


class SourcePattern(Fact):
    """A source that matches `pattern` is of this kind; the first matching row decides."""

    kind: SourceKind
    pattern: str


class RefreshSource(Fact):
    """A public source of newer facts. `file` is the pattern of its file names.

    Without a `provider`, the file states it. If several sources state a price, the lowest `priority` wins, then the
    newest source.
    """

    id: str
    feeds: FactClass
    adapter: str
    file: str
    provider: str
    origin: str
    licence: str
    priority: int


class PlausibilityException(Fact):
    """A correct row that a gate would refuse; `notes` give the reason."""

    gate: str
    subject: str
