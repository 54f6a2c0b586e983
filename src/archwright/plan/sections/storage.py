"""Storage: what is kept, how much of it, where, on which tier and why, who demands it, and what it could be instead."""

from __future__ import annotations

from collections.abc import Iterator

from archwright.contract.decision import Section, SectionLine
from archwright.contract.estimate import Estimate, exact_estimate
from archwright.contract.evidence import Query
from archwright.contract.plan import OWN_PLACEMENTS
from archwright.contract.record import replace
from archwright.plan.accounting.fleet import ChosenOption, Location
from archwright.plan.cost.data_placement import OptionContext, build_chosen_context
from archwright.plan.cost.prices import TB
from archwright.plan.cost.storage_and_egress import (
    StoredItem,
    apply_part_bands,
    build_monthly_indexes,
    choose_index_form,
    list_stored_items,
)
from archwright.plan.explain.formatting import format_estimate, format_number
from archwright.sizing.infrastructure import storage
from archwright.sizing.infrastructure.storage import StoredData

WINDOW_S = 3600.0
EMPTY_SUMMARIES = {
    True: "Data stay where they are: nothing is kept beside them.",
    False: "No option is feasible: there is no place to keep anything before a limit is moved.",
}
GB = 1e9
RETENTION_WORDS = r"retention job|retention$|storage limitation|deletion"
TIER_NAMES = {
    "object": "object storage",
    "archive": "archive storage",
    "block": "volumes of the machines",
    "file": "shared flash",
}
OWN_TIER_NAMES = {
    "object": "disks of one's own, as an object store",
    "archive": "disks of one's own, apart from the others",
    "block": "flash of one's own",
    "file": "flash of one's own, shared",
}
# What shows a kind of thing on the running platform, and what else could hold it; by the words its name begins with.
PROOFS = {
    "data": "archwright data list",
    "model files": "archwright models list",
    "checkpoints": "archwright runs list",
    "logs and audit": "archwright audit verify",
    "metrics": "/metrics of the gateway",
}
ALTERNATIVES = {
    "data": ("a warehouse or a shared file system", "dearer by the byte, and formats that only one product reads"),
    "backup": ("a second hot copy", "nobody reads a backup: the cheapest class will do"),
    "model files": ("in the image of the engine", "each version would be built and pulled whole"),
    "checkpoints": ("on the machine that trains", "it would be lost with the machine"),
    "logs and audit": ("a search engine", "it keeps an index several times their size; records are read rarely"),
    "metrics": ("object storage", "queries of the last weeks read small pieces"),
    "vector index": ("a managed vector database", "priced by the vector; your data would lie with one more processor"),
}


def build_storage_section(chosen: ChosenOption) -> Section:
    case = build_chosen_context(chosen)
    kept = list_stored_items(case)
    lines = [
        *_list_existing_stores(case),
        *(_build_item_line(case, one) for one in kept),
        *_list_cache_lines(case),
        *_list_retention_lines(case),
        *_list_index_estimates(case),
    ]
    if not kept:
        lines += _list_local_data(case)
    whole = sum(one.kept.bytes[-1] for one in kept)
    places = len({one.where for one in kept})
    said = f"{format_number(whole / TB)} TB in the last month, in {places} place{'s' if places != 1 else ''}"
    summary = f"{said}. Every option keeps as much; what it costs hangs on where it lies."
    summary = summary if kept else EMPTY_SUMMARIES[bool(case.where)]
    return Section(id="storage", title="Storage", summary=summary, lines=tuple(lines))


def _list_existing_stores(case: OptionContext) -> Iterator[SectionLine]:
    for line in case.needs.existing:
        if line.kind in ("lake", "registry"):
            yield SectionLine(
                topic=f"Existing {line.kind}",
                choice=f"{line.product}, kept",
                why="it is there and runs: neither moved nor priced; this release measures nothing of it",
                source=line.url or "needs: existing",
            )


def _build_item_line(case: OptionContext, one: StoredItem) -> SectionLine:
    kept, kind = one.kept, next(kind for kind in ALTERNATIVES if one.kept.name.startswith(kind))
    tiers = OWN_TIER_NAMES if one.where.placement in OWN_PLACEMENTS else TIER_NAMES
    first, last = (format_number(kept.bytes[end] / GB) for end in (0, -1))
    grows = f"{first} GB" if first == last else f"{first} GB in the first month, {last} GB in the last"
    alternative, why_not = ALTERNATIVES[kind]
    proof = PROOFS.get(kind, "")
    unproved = "" if proof else "; this release shows nothing of it on the running platform"
    return SectionLine(
        topic=kept.name[0].upper() + kept.name[1:],
        choice=f"{grows} on {tiers[kept.tier]} in {_display_name(one.where)}",
        why=f"{kept.why}{_describe_bandwidth(case, kept)}{unproved}",
        demanded_by=_list_clauses(case, kind),
        proof=proof,
        alternative=alternative,
        why_not=why_not,
        estimate=_estimate_bytes(case, one),
        source=case.quotes.sources(*kept.facts),
    )


def _describe_bandwidth(case: OptionContext, kept: StoredData) -> str:
    if not kept.bandwidth:
        return ""
    limit = case.catalog.parameter("object.bandwidth")
    if kept.tier == "file":
        most = f"{limit.value / GB:g} a machine gets from object storage"
        return f"; {kept.bandwidth / GB:.1f} GB/s, more than the {most}"
    streams = max(1, -(-kept.bandwidth // limit.value))
    return f"; {kept.bandwidth / GB:.2g} GB/s, the streams of {streams:.0f} machine{'s' if streams > 1 else ''}"


def _list_clauses(case: OptionContext, kind: str) -> tuple[str, ...]:
    if kind == "backup":
        return storage.backup_clauses(case.needs, case.catalog)
    if kind == "logs and audit":
        return storage.log_retention_days(case.needs, case.catalog)[1]
    if kind == "data":
        return storage.find_clauses(case.needs, case.catalog, r"provenance|lineage|asset inventory")
    return ()


def _estimate_bytes(case: OptionContext, one: StoredItem) -> Estimate:
    basis = case.ledger.create_basis(
        f"bytes.{one.kept.name}.{_display_name(one.where)}".lower().replace(" ", "-"),
        "formula",
        f"bytes in the last month: {one.kept.name}",
        formula=one.kept.why,
        facts=case.quotes.drivers(one.kept.facts),
    )
    return apply_part_bands(case, one.kept.facts, exact_estimate(one.kept.bytes[-1], "bytes"), basis)


def _list_cache_lines(case: OptionContext) -> Iterator[SectionLine]:
    """A tier for keys and values is memory and flash that machines have: sized, and not bought."""
    for workload in case.needs.workloads:
        model = case.models.get(workload.name)
        size = storage.cache_tier_bytes(workload, model) if model is not None else 0.0
        if size:
            minutes, labels = storage.CACHE_RETENTION_S / 60, {"workload": workload.name}
            query = Query(metric="ttft_s", labels=labels, statistic="p95", window_s=WINDOW_S)
            yield SectionLine(
                topic=f"Cache of conversations of {workload.name}",
                choice="the engine's own memory; no tier beside it",
                why=(
                    f"the prompts of {minutes:.0f} busy minutes would keep {format_number(size / GB)} GB; without it a "
                    "follow-up reads its prompt again, which the predicted time to first token includes"
                ),
                proof=query.promql(),
                alternative="host memory or local flash as a second tier",
                why_not="worth it where most conversations come back within minutes: measure that first",
            )


def _list_retention_lines(case: OptionContext) -> Iterator[SectionLine]:
    limited = [data for data in case.needs.data if data.retention_months is not None]
    if limited:
        names = ", ".join(f"{data.name} {data.retention_months:g} months" for data in limited)
        yield SectionLine(
            topic="Retention",
            choice=f"deleted when their time is over: {names}",
            why="sizes above count on it; what is not deleted is paid for, and may have to be answered for",
            demanded_by=storage.find_clauses(case.needs, case.catalog, RETENTION_WORDS),
            proof="archwright data list",
            alternative="keep all of it",
            why_not="the share that is never read again only grows",
        )


def _list_index_estimates(case: OptionContext) -> Iterator[SectionLine]:
    """Indexes whose size rests on a guess."""
    for workload in case.needs.workloads:
        months = build_monthly_indexes(case, workload)
        place = next(iter(case.load_shares(workload)), None)
        if not months or months[-1].stated or place is None:
            continue
        last, form = months[-1], choose_index_form(case, workload, place)
        yield SectionLine(
            topic=f"Size of the index of {workload.name}",
            choice=f"searched in {form} form: {format_number(last.footprint(form).memory_bytes / GB)} GB of host "
            "memory",
            why=f"{format_estimate(last.vectors)}: guessed from the bytes of its data, "
            "the widest unknown of this section",
            alternative="count the documents",
            why_not="state an embedding workload with documents and tokens_per_document, and the guess is gone",
            estimate=_estimate_vectors(case, last.vectors, workload.name),
            source=case.quotes.sources("text.share", "text.bytes", "chunk.tokens"),
        )


def _estimate_vectors(case: OptionContext, vectors: Estimate, workload: str) -> Estimate:
    names = ("text.share", "text.bytes", "chunk.tokens")
    basis = case.ledger.create_basis(
        f"vectors.{workload}",
        "formula",
        "vectors of a retrieval's index in the last month",
        formula="bytes of the data x share of text / bytes of a token / tokens of a chunk; band: all at their ends",
        facts=case.quotes.drivers(names),
    )
    return replace(vectors, basis=basis)


def _list_local_data(case: OptionContext) -> Iterator[SectionLine]:
    if any(place.placement == "this-machine" for place in case.where):
        size = sum(data.size_gib for data in case.needs.data)
        yield SectionLine(
            topic="Data",
            choice=f"{size:g} GiB on this machine's disk",
            why="it is there, and costs nothing more; its files and the model's are counted",
            proof=Query(metric="disk_bytes", labels={}, statistic="max", window_s=WINDOW_S).promql(),
            alternative="object storage",
            why_not="nothing else reads them",
        )


def _display_name(where: Location) -> str:
    return where.region or where.provider
