"""Storage section: what is stored, how much, where, on which tier and why, and which clause demands it."""

from collections.abc import Iterator

from archwright.contract.decision import Section, SectionLine
from archwright.contract.estimate import exact_estimate
from archwright.contract.number_format import format_count, format_estimate, format_exact, format_number
from archwright.contract.plan import OWN_PLACEMENTS
from archwright.contract.record import as_dict, replace
from archwright.plan.accounting.fleet import ChosenOption
from archwright.plan.cost.data_placement import OptionContext, build_chosen_context
from archwright.plan.cost.prices import TB
from archwright.plan.cost.storage_and_egress import (
    StoredItem,
    apply_part_bands,
    build_monthly_indexes,
    choose_index_form,
    list_stored_items,
)
from archwright.plan.sections.guidance import fill_line, read_line_templates, write_proof
from archwright.sizing.infrastructure import storage
from archwright.sizing.infrastructure.storage import StoredData

EMPTY_SUMMARIES = {
    True: "The data stays where it is. Nothing else is stored.",
    False: "No option is feasible, so no storage location is known. Relax a limit first.",
}
GB = 1e9
RETENTION_WORDS = r"retention job|retention$|storage limitation|deletion"
PROVENANCE_WORDS = r"provenance|lineage|asset inventory"
TIER_NAMES = {
    "object": "object storage",
    "archive": "archive storage",
    "block": "volumes of the machines",
    "file": "shared flash",
}
OWN_TIER_NAMES = {
    "object": "own disks, as an object store",
    "archive": "own disks, apart from the others",
    "block": "own flash",
    "file": "own flash, shared",
}
# Templates of stored items: a name begins with what follows the prefix.
ITEM_PREFIX = "storage.item."
INDEX_FACTS = ("text.share", "text.bytes", "chunk.tokens")


def build_storage_section(chosen: ChosenOption) -> Section:
    case = build_chosen_context(chosen)
    kept = list_stored_items(case)
    theirs = [own for own in case.needs.existing if own.kind in ("lake", "registry")]
    lines = [fill_line("storage.existing", as_dict(own), source=own.url or "needs: existing") for own in theirs]
    lines += [_build_item_line(case, one) for one in kept]
    lines += [*_list_cache_and_retention(case), *_list_index_estimates(case)]
    if not kept and any(place.placement == "this-machine" for place in case.where):
        size = sum(data.size_gib for data in case.needs.data)
        lines.append(fill_line("storage.local", {"size": size}, proof=write_proof("disk_bytes", "max")))
    whole, places = sum(one.kept.bytes[-1] for one in kept), len({one.where for one in kept})
    stored = f"{format_number(whole / TB)} TB in the last month, in {places} place{'s' if places != 1 else ''}"
    summary = f"{stored}. Every option stores the same data; only the storage location changes the cost."
    summary = summary if kept else EMPTY_SUMMARIES[bool(case.where)]
    return Section(id="storage", title="Storage", summary=summary, lines=tuple(lines))


def _build_item_line(case: OptionContext, one: StoredItem) -> SectionLine:
    kept, place = one.kept, one.where.region or one.where.provider
    tiers = OWN_TIER_NAMES if one.where.placement in OWN_PLACEMENTS else TIER_NAMES
    kinds = (name.removeprefix(ITEM_PREFIX) for name in read_line_templates() if name.startswith(ITEM_PREFIX))
    kind = next(kind for kind in kinds if kept.name.startswith(kind))
    first, last = (_format_size(kept.bytes[end]) for end in (0, -1))
    values = {
        "name": kept.name[0].upper() + kept.name[1:],
        "size": first if first == last else f"{first} in the first month, {last} in the last",
        "tier": tiers[kept.tier],
        "place": place,
        "reason": f"{kept.why}{_describe_bandwidth(case, kept)}",
    }
    basis = case.ledger.create_basis(
        f"bytes.{kept.name}.{place}".lower().replace(" ", "-"),
        "formula",
        f"bytes in the last month: {kept.name}",
        formula=kept.why,
        facts=case.quotes.drivers(kept.facts),
    )
    return fill_line(
        f"{ITEM_PREFIX}{kind}",
        values,
        demanded_by=_list_clauses(case, kind),
        estimate=apply_part_bands(case, kept.facts, exact_estimate(kept.bytes[-1], "bytes"), basis),
        source=case.quotes.sources(*kept.facts),
    )


def _format_size(size: float) -> str:
    """Three digits in GB or TB."""
    number = size / (TB if size >= TB else GB)
    return f"{format_number(number)} {'TB' if size >= TB else 'GB'}"


def _describe_bandwidth(case: OptionContext, kept: StoredData) -> str:
    if not kept.bandwidth:
        return ""
    limit = case.catalog.parameter("object.bandwidth")
    if kept.tier == "file":
        most = f"{format_exact(limit.value / GB)} GB/s that one machine gets from object storage"
        return f"; {format_number(kept.bandwidth / GB)} GB/s, more than the {most}"
    streams = max(1, -(-kept.bandwidth // limit.value))
    return f"; {format_number(kept.bandwidth / GB)} GB/s, the streams of {format_count(streams, 'machine')}"


def _list_clauses(case: OptionContext, kind: str) -> tuple[str, ...]:
    if kind == "backup":
        return storage.backup_clauses(case.needs, case.catalog)
    if kind == "logs and audit":
        return storage.log_retention_days(case.needs, case.catalog)[1]
    return storage.find_clauses(case.needs, case.catalog, PROVENANCE_WORDS) if kind == "data" else ()


def _list_cache_and_retention(case: OptionContext) -> Iterator[SectionLine]:
    """A cache tier for keys and values uses memory and flash that the machines have: sized, not bought."""
    for workload in case.needs.workloads:
        model = case.models.get(workload.name)
        size = storage.cache_tier_bytes(workload, model) if model is not None else 0.0
        if size:
            values = {"workload": workload.name, "minutes": storage.CACHE_RETENTION_S / 60}
            values["size"] = format_number(size / GB)
            yield fill_line("storage.cache", values, proof=write_proof("ttft_s", "p95", workload=workload.name))
    limited = [data for data in case.needs.data if data.retention_months is not None]
    if limited:
        names = ", ".join(f"{data.name} {format_exact(data.retention_months or 0)} months" for data in limited)
        clauses = storage.find_clauses(case.needs, case.catalog, RETENTION_WORDS)
        yield fill_line("storage.retention", {"names": names}, demanded_by=clauses)


def _list_index_estimates(case: OptionContext) -> Iterator[SectionLine]:
    """Indexes whose number of vectors is estimated, not counted."""
    for workload in case.needs.workloads:
        months = build_monthly_indexes(case, workload)
        place = next(iter(case.load_shares(workload)), None)
        if not months or months[-1].stated or place is None:
            continue
        last, form = months[-1], choose_index_form(case, workload, place)
        values = {"workload": workload.name, "form": form, "vectors": format_estimate(last.vectors)}
        values["memory"] = format_number(last.footprint(form).memory_bytes / GB)
        basis = case.ledger.create_basis(
            f"vectors.{workload.name}",
            "formula",
            "vectors of a retrieval index in the last month",
            formula="bytes of the data x share of text / bytes of a token / tokens of a chunk; band: all at their ends",
            facts=case.quotes.drivers(INDEX_FACTS),
        )
        vectors, source = replace(last.vectors, basis=basis), case.quotes.sources(*INDEX_FACTS)
        yield fill_line("storage.index-size", values, estimate=vectors, source=source)
