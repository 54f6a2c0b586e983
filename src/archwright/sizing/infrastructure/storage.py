"""What a platform keeps: bytes in each month of the horizon, and the bandwidth that decides on which tier they lie.

A data set of S bytes grows by g a month and is kept for R months. If S <= g R, it came at today's pace and first leaves
in R - S/g months: min(S + g m, g R). Else it came over R months and leaves evenly: max(S (1 - m / R) + g m, g R).
Without R it only grows. Tier: object storage if its streams carry the bandwidth, else shared flash.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import ModelSpec
from archwright.contract.needs import TEXT_KINDS, TRAINING_KINDS, DataProfile, Needs, Workload
from archwright.sizing.model.architecture import cache_bytes
from archwright.sizing.training.training_flops import lora_parameters

StorageTier = Literal["object", "archive", "block", "file"]
GIB = 2.0**30
WEIGHT_BYTES = 2
# Rank of the adapters of a parameter-efficient fine-tune where nobody says.
ADAPTER_RANK = 16
RETENTION_FLOOR = re.compile(r"retention floor (\d+) days")
# How long a conversation's cache is worth keeping beyond its last answer.
CACHE_RETENTION_S = 600.0


class StoredData(NamedTuple):
    """One kind of thing: `bytes[m]` in the middle of month m, proportional to each of `facts` (parts of the
    catalog), read or written at `bandwidth` bytes/s at most. `data`: the data set it is or copies; `workload`:
    whose model it is."""

    name: str
    tier: StorageTier
    bytes: tuple[float, ...]
    facts: tuple[str, ...] = ()
    bandwidth: float = 0.0
    data: str = ""
    workload: str = ""
    why: str = ""

    @property
    def peak_bytes(self) -> float:
        return max(self.bytes, default=0.0)


def stored_bytes_at(data: DataProfile, month: float) -> float:
    """Bytes in use after `month` months (see above)."""
    size, growth, kept = data.size_gib * GIB, data.growth_gib_per_month * GIB, data.retention_months
    if kept is None:
        return size + growth * month
    if size <= growth * kept:
        return min(size + growth * month, growth * kept)
    return max(size * (1 - month / kept) + growth * month if kept else 0.0, growth * kept)


def list_data_sets(needs: Needs, catalog: Catalog) -> Iterable[StoredData]:
    """Every data set with its versions, and a copy if a regulation asks for backup; none if a lake exists already."""
    if any(line.kind == "lake" for line in needs.existing):
        return
    months, demanded = needs.budget.horizon_months, backup_clauses(needs, catalog)
    versions = catalog.parameter("lake.versions").value
    copies = catalog.parameter("backup.copies").value
    for data in needs.data:
        size = tuple(stored_bytes_at(data, month + 0.5) for month in range(months))
        stored = tuple(versions * amount for amount in size)
        kept = f"kept {data.retention_months:g} months" if data.retention_months is not None else "kept for good"
        reads = (required_read_bandwidth(workload) for workload in needs.workloads if data.name in workload.data)
        why = f"{data.size_gib:g} GiB, {data.growth_gib_per_month:g} more a month, {kept}; x {versions:g} for versions"
        yield StoredData(
            f"data {data.name}", "object", stored, ("lake.versions",), max(reads, default=0.0), data.name, why=why
        )
        if demanded:
            second = tuple(copies * amount for amount in size)
            why = f"a copy apart: {', '.join(demanded)}"
            yield StoredData(f"backup of {data.name}", "archive", second, ("backup.copies",), data=data.name, why=why)


def required_read_bandwidth(workload: Workload) -> float:
    """Bytes/s that data processing must read to hold its deadline."""
    traffic = workload.traffic
    if workload.kind != "data-processing" or traffic is None or traffic.gib_per_day is None:
        return 0.0
    return traffic.gib_per_day * GIB / ((traffic.deadline_h or 24.0) * 3600)


def count_parameters(workload: Workload, models: Mapping[str, ModelSpec]) -> float | None:
    """Parameters of what a workload serves or trains; None when no model is known yet."""
    if workload.parameters is not None:
        return workload.parameters
    if workload.traffic is not None and workload.traffic.parameters is not None:
        return workload.traffic.parameters
    model = models.get(workload.name) or models.get(workload.base or "")
    return float(model.parameters) if model is not None else None


def count_trained_parameters(workload: Workload, models: Mapping[str, ModelSpec]) -> float | None:
    """Parameters of what training makes, else of what is served: all, or a parameter-efficient tune's adapters."""
    model = models.get(workload.name) or models.get(workload.base or "")
    if workload.kind == "finetune" and workload.method != "full":
        return float(lora_parameters(model, model.ffn or 4 * model.hidden, ADAPTER_RANK)) if model is not None else None
    return count_parameters(workload, models)


def checkpoint_bytes(parameters: float, catalog: Catalog) -> float:
    return parameters * catalog.parameter("checkpoint.bytes").value


def list_checkpoints(needs: Needs, models: Mapping[str, ModelSpec], catalog: Catalog) -> Iterable[StoredData]:
    """Of each workload that trains: its state, several times, written while the run waits."""
    for workload in needs.workloads:
        count = count_trained_parameters(workload, models) if workload.kind in TRAINING_KINDS else None
        if count is None:
            continue
        one, write_s = checkpoint_bytes(count, catalog), catalog.parameter("checkpoint.write").value
        bandwidth = one / write_s
        size = one * catalog.parameter("checkpoint.kept").value
        yield StoredData(
            name=f"checkpoints of {workload.name}",
            tier=choose_tier(bandwidth, catalog),
            bytes=(size,) * needs.budget.horizon_months,
            facts=("checkpoint.bytes", "checkpoint.kept"),
            bandwidth=bandwidth,
            workload=workload.name,
            why=f"{count / 1e9:.3g}e9 trained parameters, written within {write_s:g} s",
        )


def list_model_files(needs: Needs, models: Mapping[str, ModelSpec], catalog: Catalog) -> Iterable[StoredData]:
    """Weights of every model that is served, and what training makes of them, in 16 bits, each in a few versions."""
    versions, load_s = (catalog.parameter(name).value for name in ("model.versions", "model.load"))
    for workload in needs.workloads:
        count = count_trained_parameters(workload, models)
        if count is None:
            continue
        one = WEIGHT_BYTES * count
        bandwidth = one / load_s
        yield StoredData(
            name=f"model files of {workload.name}",
            tier=choose_tier(bandwidth, catalog),
            bytes=(versions * one,) * needs.budget.horizon_months,
            facts=("model.versions",),
            bandwidth=bandwidth,
            workload=workload.name,
            why=f"{count / 1e9:.3g}e9 parameters, a new replica reads them within {load_s:g} s",
        )


def choose_tier(bandwidth: float, catalog: Catalog) -> StorageTier:
    """Object storage as far as one machine's streams carry; shared flash beyond."""
    return "object" if bandwidth <= catalog.parameter("object.bandwidth").value else "file"


def size_logs(needs: Needs, requests_by_month: tuple[float, ...], catalog: Catalog) -> StoredData:
    """Logs and audit of the requests of the months that are kept; none were made before the first month."""
    days, _ = log_retention_days(needs, catalog)
    record = catalog.parameter("log.bytes").value
    window = days * 24 / 730
    months = range(len(requests_by_month))
    kept = tuple(record * sum(_amounts_in_window(requests_by_month, month + 0.5, window)) for month in months)
    facts = ("log.bytes",) if days != catalog.parameter("log.days").value else ("log.bytes", "log.days")
    return StoredData("logs and audit", "object", kept, facts, why=f"every request's record for {days:g} days")


def _amounts_in_window(amounts: tuple[float, ...], now: float, window: float) -> Iterable[float]:
    """What came between now - window and now, each month's amount spread evenly over it."""
    for month, amount in enumerate(amounts):
        share = min(now, month + 1.0) - max(now - window, float(month))
        if share > 0:
            yield amount * share


def log_retention_days(needs: Needs, catalog: Catalog) -> tuple[float, tuple[str, ...]]:
    """Days logs are kept: the longest floor of the regulations and the clauses that set it, else the usual."""
    floors = [
        (float(found.group(1)), f"{name} {rule.clause}")
        for name in needs.regulations
        for rule in catalog.regulations[name].controls
        if (found := RETENTION_FLOOR.search(rule.feature)) is not None
    ]
    usual = catalog.parameter("log.days").value
    longest = max((days for days, _ in floors), default=0.0)
    if longest <= usual:
        return usual, tuple(clause for _, clause in floors)
    return longest, tuple(clause for days, clause in floors if days == longest)


def size_metrics(machines: tuple[float, ...], days: float, catalog: Catalog) -> StoredData:
    """Series of so many machines, kept as long as the logs."""
    one = catalog.parameter("metrics.bytes").value * days
    stored = tuple(one * count for count in machines)
    return StoredData("metrics", "block", stored, ("metrics.bytes",), why=f"{days:g} days")


def backup_clauses(needs: Needs, catalog: Catalog) -> tuple[str, ...]:
    """Clauses that ask for a backup, in the order the needs name their regulations."""
    return find_clauses(needs, catalog, r"\bbackup\b")


def find_clauses(needs: Needs, catalog: Catalog, words: str) -> tuple[str, ...]:
    """Clauses of the needs' regulations whose demand or feature speaks of `words` (a pattern)."""
    said = re.compile(words, re.IGNORECASE)
    return tuple(
        f"{name} {rule.clause}"
        for name in needs.regulations
        for rule in catalog.regulations[name].controls
        if said.search(rule.demand) or said.search(rule.feature)
    )


def cache_tier_bytes(workload: Workload, model: ModelSpec) -> float:
    """Keys and values of the conversations of the last minutes at the busiest hour: what a cache tier would hold."""
    traffic = workload.traffic
    if workload.kind not in TEXT_KINDS or traffic is None:
        return 0.0
    if traffic.requests_per_second is None or traffic.input_tokens is None:
        return 0.0
    return traffic.requests_per_second.peak * CACHE_RETENTION_S * cache_bytes(model, traffic.input_tokens.mean)
