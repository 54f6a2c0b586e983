"""Fills what a needs file leaves out: loads, limits, languages, modalities, the team by role.

It happens once, after all checks: all later code sees the filled fields. `NeedsSource` keeps what
was derived.
"""

from collections.abc import Iterator
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.contract.needs import (
    SLO,
    DerivedLoad,
    Needs,
    NeedsSource,
    Organisation,
    SLOPreset,
    Workload,
)
from archwright.contract.record import replace
from archwright.needs.kind_fields import fields_by_kind
from archwright.needs.load_conversion import check_load, convert_load
from archwright.needs.needs_problem import NeedsProblem

ENGLISH = "en"
# Kinds whose answer a person reads while it is written, and their preset if the file states no
# latency. Documents and agents that no user asks are work in the background.
READ_ALONG = frozenset({"chat", "rag", "vision-language"})
DEFAULT_PRESET: SLOPreset = "reading"
# Rows of presets for kinds that stream text.
STREAMED = "chat"
PLATFORM = "platform"


class _ChosenLanguages(NamedTuple):
    codes: tuple[str, ...]
    reason: str


def derive_needs(needs: Needs, source: NeedsSource, catalog: Catalog) -> tuple[Needs, NeedsSource]:
    """Return the filled needs, and their source with what was derived; stated fields stay."""
    derivation = _Derivation(needs, source, catalog)
    workloads: list[Workload] = []
    for index, workload in enumerate(needs.workloads):
        workloads.append(derivation.fill_workload(index, workload))

    organisation = _fill_team(needs.organisation)
    filled_needs = replace(needs, workloads=tuple(workloads), organisation=organisation)
    filled_source = replace(
        source,
        loads=tuple(derivation.loads),
        defaults=tuple(derivation.defaults),
    )
    return filled_needs, filled_source


def check_loads(needs: Needs) -> Iterator[NeedsProblem]:
    for index, workload in enumerate(needs.workloads):
        if workload.traffic is not None:
            yield from check_load(workload.traffic, f"workloads[{index}].traffic")


class _Derivation:
    """Fills one workload after the other, and collects the derived loads and the defaults."""

    def __init__(self, needs: Needs, source: NeedsSource, catalog: Catalog) -> None:
        self.loads: list[DerivedLoad] = []
        self.defaults: list[str] = []
        self._needs = needs
        self._source = source
        self._catalog = catalog

    def fill_workload(self, index: int, workload: Workload) -> Workload:
        with_load = self._fill_load(workload, f"workloads[{index}].traffic.")
        with_languages = self._fill_languages(with_load)
        with_modalities = _fill_modalities(with_languages)
        return self._fill_limits(with_modalities)

    def _fill_load(self, workload: Workload, prefix: str) -> Workload:
        if workload.traffic is None:
            return workload

        stated_fields: set[str] = set()
        for path in self._source.lines:
            if path.startswith(prefix):
                stated_fields.add(path.removeprefix(prefix))
        traffic, load = convert_load(
            workload,
            workload.traffic,
            stated_fields=stated_fields,
            catalog=self._catalog,
        )
        if load.values:
            self.loads.append(load)
        return replace(workload, traffic=traffic)

    def _fill_languages(self, workload: Workload) -> Workload:
        fields = fields_by_kind()[workload.kind]
        if "languages" not in fields.also or workload.languages:
            return workload

        chosen = self._choose_languages(workload)
        codes = ", ".join(chosen.codes)
        self.defaults.append(f"{workload.name}: languages {codes}: {chosen.reason}")
        return replace(workload, languages=chosen.codes)

    def _choose_languages(self, workload: Workload) -> _ChosenLanguages:
        """Return the languages of the workload's data, else those of the country with English."""
        languages_of_data: dict[str, None] = {}
        for data in self._needs.data:
            if data.name in workload.data:
                languages_of_data.update(dict.fromkeys(data.languages))
        if languages_of_data:
            return _ChosenLanguages(tuple(languages_of_data), "those of its data")

        country = self._needs.organisation.country
        languages: dict[str, None] = {}
        official = self._catalog.country_languages.get(country)
        if official is not None:
            languages.update(dict.fromkeys(official.languages))
        languages[ENGLISH] = None
        reason = f"the official languages of {country}, and English"
        return _ChosenLanguages(tuple(languages), reason)

    def _fill_limits(self, workload: Workload) -> Workload:
        """Return the workload with the limits of its preset; stated fields stay.

        A workload that a person reads along gets the preset "reading" if the file states no latency
        limit. On this machine alone it gets none: there is no other machine to choose.
        """
        slo = workload.slo
        preset = slo.preset
        if preset is None and self._is_read_along(workload) and not _states_latency(slo):
            preset = DEFAULT_PRESET

        added_limits = self._list_missing_limits(workload, preset)
        if added_limits and slo.preset is None:
            limits = " and ".join(f"slo.{name} {value:g}" for name, value in added_limits.items())
            reason = f"slo.preset {preset}, since the file states no latency"
            self.defaults.append(f"{workload.name}: {limits}: {reason}")
        return replace(workload, slo=replace(slo, **added_limits))

    def _is_read_along(self, workload: Workload) -> bool:
        allowed_placements = set(self._needs.placement.allow)
        if allowed_placements == {"this-machine"}:
            return False
        return workload.kind in READ_ALONG and not _runs_in_background(workload)

    def _list_missing_limits(
        self,
        workload: Workload,
        preset: SLOPreset | None,
    ) -> dict[str, float]:
        """Return the limits of the preset, by field, that the workload does not state."""
        is_streamed = "ttft_p95_s" in fields_by_kind()[workload.kind].slo
        limits: dict[str, float] = {}
        for row in self._catalog.slo_limits:
            if row.preset != preset or (row.kind == STREAMED) != is_streamed:
                continue
            if getattr(workload.slo, row.field) is None:
                limits[row.field] = row.value
        return limits


def _states_latency(slo: SLO) -> bool:
    latencies_s = (slo.ttft_p95_s, slo.tpot_p95_s, slo.latency_p95_s)
    return any(latency_s is not None for latency_s in latencies_s)


def _runs_in_background(workload: Workload) -> bool:
    """True if nobody reads along: documents to a deadline, or an agent that no user asks."""
    traffic = workload.traffic
    if traffic is None:
        return True
    agent_steps = traffic.agent_steps or 1
    if traffic.users is None and agent_steps > 1:
        return True
    return traffic.documents is not None or traffic.deadline_h is not None


def _fill_modalities(workload: Workload) -> Workload:
    modalities = fields_by_kind()[workload.kind].modalities
    if not modalities or workload.modalities:
        return workload
    return replace(workload, modalities=modalities)


def _fill_team(organisation: Organisation) -> Organisation:
    """Return the organisation with `team.platform` and `platform_engineers` equal.

    Both stay empty if the file states neither.
    """
    engineers = organisation.team.get(PLATFORM, organisation.platform_engineers)
    if engineers is None:
        return organisation
    team = {**organisation.team, PLATFORM: engineers}
    return replace(organisation, platform_engineers=engineers, team=team)
