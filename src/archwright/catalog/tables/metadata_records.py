"""Facts about facts: where machines exist, what hosted models are known for, how facts age, where new ones are from."""

from __future__ import annotations

from typing import Literal

from archwright.catalog.tables.records import Fact

SourceKind = Literal["vendor", "api", "repo", "third_party", "measured", "derived", "assumed", "user", "recalled"]
FreshnessState = Literal["fresh", "ageing", "stale", "expired"]
HostedKind = Literal["place", "quality"]
FactClass = Literal["offers", "machines", "hosted", "storage", "grid", "tariffs", "scores", "models", "accelerators"]


class RegionAvailability(Fact):
    """A provider says that it has this machine type in this region; its list price there where the source has it."""

    provider: str
    region: str
    instance_type: str
    on_demand_usd_per_hour: float | None


class RegionRatio(Fact):
    """How much a machine family costs in a region over the provider's home region, read from the type `read_from`."""

    provider: str
    family: str
    region: str
    home: str
    ratio: float
    read_from: str


class HostedModelFact(Fact):
    """What is known of a hosted model beside its price: a place where it processes, or a reported score.

    `model` "*" stands for all of the provider. `name` is the place or the benchmark; `value` the score.
    """

    provider: str
    model: str
    kind: HostedKind
    name: str
    value: float | None


class TimeToLive(Fact):
    """How a class of facts ages. `applies_to` names tables, or "table:kind" for a part of one.

    A figure older than `ttl_days` may have drifted: by `drift_down` below or `drift_up` above at twice that age.
    Past `expires_days` (None: never) no advice to buy rests on it.
    """

    id: str
    ttl_days: int
    expires_days: int | None
    drift_down: float
    drift_up: float
    applies_to: tuple[str, ...]


class SourcePattern(Fact):
    """A source whose text matches `pattern` is of this kind; the first row that matches decides."""

    kind: SourceKind
    pattern: str


class RefreshSource(Fact):
    """A public source of newer facts. `file` is the pattern of its files' names; without a `provider` the file says
    whose machines it lists. Of several sources for one price, the lowest `priority` wins, then the newest.
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
    """A row that a gate would refuse and that is right; `notes` say why."""

    gate: str
    subject: str
