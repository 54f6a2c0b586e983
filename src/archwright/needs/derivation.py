"""Fills what a needs file leaves out and people do not know: loads, limits, languages, modalities, the team by role.

It happens once, after all checks: all later code sees the filled fields. `NeedsSource` keeps what was derived.
"""

from collections.abc import Iterator

from archwright.catalog.catalog import Catalog
from archwright.contract.needs import SLO, DerivedLoad, Needs, NeedsSource, Organisation, Placement, SLOPreset, Workload
from archwright.contract.record import replace
from archwright.needs.kind_fields import fields_by_kind
from archwright.needs.load_conversion import check_load, convert_load
from archwright.needs.needs_problem import NeedsProblem

ENGLISH = "en"
# Kinds whose answer a person reads while it is written, and their preset if the file states no latency. Documents and
# agents that no user asks are work in the background.
READ_ALONG = frozenset({"chat", "rag", "vision-language"})
DEFAULT_PRESET: SLOPreset = "reading"
LATENCY_FIELDS = ("ttft_p95_s", "tpot_p95_s", "latency_p95_s")
# Rows of presets for kinds that stream text.
STREAMED = "chat"
PLATFORM = "platform"


def derive_needs(needs: Needs, source: NeedsSource, catalog: Catalog) -> tuple[Needs, NeedsSource]:
    """Return the filled needs, and their source with what was derived; stated fields stay."""
    loads, defaults, workloads = list[DerivedLoad](), list[str](), list[Workload]()
    for index, stated in enumerate(needs.workloads):
        workload, fields = stated, fields_by_kind()[stated.kind]
        if workload.traffic is not None:
            path = f"workloads[{index}].traffic."
            given = {name.removeprefix(path) for name in source.lines if name.startswith(path)}
            traffic, load = convert_load(workload, workload.traffic, given, catalog)
            workload = replace(workload, traffic=traffic)
            loads += [load] if load.values else []
        if "languages" in fields.also and not workload.languages:
            languages, reason = _choose_languages(needs, workload, catalog)
            workload = replace(workload, languages=languages)
            defaults.append(f"{workload.name}: languages {', '.join(languages)}: {reason}")
        if fields.modalities and not workload.modalities:
            workload = replace(workload, modalities=fields.modalities)
        limits, reason = _fill_limits(workload, needs.placement.allow, catalog)
        defaults += [reason] if reason else []
        workloads.append(replace(workload, slo=limits))
    filled = replace(needs, workloads=tuple(workloads), organisation=_fill_team(needs.organisation))
    return filled, replace(source, loads=tuple(loads), defaults=tuple(defaults))


def check_loads(needs: Needs) -> Iterator[NeedsProblem]:
    for index, workload in enumerate(needs.workloads):
        if workload.traffic is not None:
            yield from check_load(workload.traffic, f"workloads[{index}].traffic")


def _fill_limits(workload: Workload, allow: tuple[Placement, ...], catalog: Catalog) -> tuple[SLO, str]:
    """Return the service levels with the limits of the preset, and a sentence about a default preset.

    A workload that a person reads along gets the preset "reading" if the file states no latency limit. On this machine
    alone it gets none: there is no other machine to choose. Stated fields stay.
    """
    slo, preset = workload.slo, workload.slo.preset
    reads = workload.kind in READ_ALONG and not _runs_in_background(workload) and set(allow) != {"this-machine"}
    if preset is None and reads and all(getattr(slo, field) is None for field in LATENCY_FIELDS):
        preset = DEFAULT_PRESET
    streams = "ttft_p95_s" in fields_by_kind()[workload.kind].slo
    rows = [row for row in catalog.slo_limits if row.preset == preset and (row.kind == STREAMED) == streams]
    added = {row.field: row.value for row in rows if getattr(slo, row.field) is None}
    if not added or slo.preset is not None:
        return replace(slo, **added), ""
    limits = " and ".join(f"slo.{field} {value:g}" for field, value in added.items())
    return replace(slo, **added), f"{workload.name}: {limits}: slo.preset {preset}, since the file states no latency"


def _runs_in_background(workload: Workload) -> bool:
    """True if nobody reads along: documents to a deadline, or the steps of an agent that no user asks."""
    traffic = workload.traffic
    if traffic is None:
        return True
    agent = traffic.users is None and (traffic.agent_steps or 1) > 1
    return agent or traffic.documents is not None or traffic.deadline_h is not None


def _choose_languages(needs: Needs, workload: Workload, catalog: Catalog) -> tuple[tuple[str, ...], str]:
    """Return the languages of the workload's data, else of the organisation's country with English, and why."""
    spoken = [code for data in needs.data if data.name in workload.data for code in data.languages]
    if spoken:
        return tuple(dict.fromkeys(spoken)), "those of its data"
    country = needs.organisation.country
    known = catalog.country_languages.get(country)
    official = known.languages if known is not None else ()
    return tuple(dict.fromkeys((*official, ENGLISH))), f"the official languages of {country}, and English"


def _fill_team(organisation: Organisation) -> Organisation:
    """Return the organisation with `team.platform` and `platform_engineers` equal, as far as one is stated."""
    engineers = organisation.team.get(PLATFORM, organisation.platform_engineers)
    if engineers is None:
        return organisation
    return replace(organisation, platform_engineers=engineers, team={**organisation.team, PLATFORM: engineers})
