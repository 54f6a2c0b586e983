"""Stored bytes of a platform per month of the horizon, and the bandwidth that decides the storage tier.

A data set of S bytes grows by g bytes per month and is kept for R months; stored bytes after m months:
- S <= g R (it grew at today's rate, deletion starts after R - S/g months): min(S + g m, g R)
- S > g R (it arrived over R months and is deleted evenly): max(S (1 - m / R) + g m, g R)
- no R: S + g m
Tier: object storage if the streams of one machine carry the bandwidth, else shared flash.
"""

import itertools
import math
import re
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import ModelSpec
from archwright.contract.evidence import find_retention_days
from archwright.contract.needs import TEXT_KINDS, TRAINING_KINDS, DataProfile, Needs, Workload
from archwright.sizing.model.architecture import cache_bytes
from archwright.sizing.training.training_flops import lora_parameters

StorageTier = Literal["object", "archive", "block", "file"]
GIB = 2.0**30
WEIGHT_BYTES = 2
# LoRA rank of a fine-tune without a stated rank.
ADAPTER_RANK = 16
# Retention of a conversation's KV cache after its last response.
CACHE_RETENTION_S = 600.0


class StoredData(NamedTuple):
    """One kind of stored data: `bytes[m]` in the middle of month m, proportional to each catalog part in `facts`.

    `bandwidth`: most bytes/s read or written; `data`: the data set that it is or copies; `workload`: the workload of a
    model's files or checkpoints."""

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
    size, growth, kept = data.size_gib * GIB, data.growth_gib_per_month * GIB, data.retention_months
    if kept is None:
        return size + growth * month
    if size <= growth * kept:
        return min(size + growth * month, growth * kept)
    return max(size * (1 - month / kept) + growth * month if kept else 0.0, growth * kept)


def list_data_sets(needs: Needs, catalog: Catalog) -> Iterable[StoredData]:
    """Yield every data set with its versions, and a backup if a regulation requires it; none if a lake exists."""
    if any(line.kind == "lake" for line in needs.existing):
        return
    months, demanded = needs.budget.horizon_months, backup_clauses(needs, catalog)
    versions = catalog.parameter("lake.versions").value
    copies = catalog.parameter("backup.copies").value
    for data in needs.data:
        size = tuple(stored_bytes_at(data, month + 0.5) for month in range(months))
        stored = tuple(versions * amount for amount in size)
        kept = f"kept for {data.retention_months:g} months" if data.retention_months is not None else "never deleted"
        reads = (required_read_bandwidth(workload) for workload in needs.workloads if data.name in workload.data)
        growth = f"{data.size_gib:g} GiB + {data.growth_gib_per_month:g} GiB per month"
        why, read = f"{growth}, {kept}; x {versions:g} for versions", max(reads, default=0.0)
        yield StoredData(f"data {data.name}", "object", stored, ("lake.versions",), read, data.name, why=why)
        if demanded:
            backup = tuple(copies * amount for amount in size)
            why = f"a separate copy, required by {', '.join(demanded)}"
            yield StoredData(f"backup of {data.name}", "archive", backup, ("backup.copies",), data=data.name, why=why)


def required_read_bandwidth(workload: Workload) -> float:
    """Return the bytes/s that data processing must read to meet its deadline."""
    traffic = workload.traffic
    if workload.kind != "data-processing" or traffic is None or traffic.gib_per_day is None:
        return 0.0
    return traffic.gib_per_day * GIB / ((traffic.deadline_h or 24.0) * 3600)


def count_parameters(workload: Workload, models: Mapping[str, ModelSpec]) -> float | None:
    """Return the parameters of the model that a workload serves or trains; None if the model is not known yet."""
    if workload.parameters is not None:
        return workload.parameters
    if workload.traffic is not None and workload.traffic.parameters is not None:
        return workload.traffic.parameters
    model = models.get(workload.name) or models.get(workload.base or "")
    return float(model.parameters) if model is not None else None


def count_trained_parameters(workload: Workload, models: Mapping[str, ModelSpec]) -> float | None:
    """Return the trained parameters (LoRA: those of the adapters), else those of the served model."""
    model = models.get(workload.name) or models.get(workload.base or "")
    if workload.kind == "finetune" and workload.method != "full":
        return float(lora_parameters(model, model.ffn or 4 * model.hidden, ADAPTER_RANK)) if model is not None else None
    return count_parameters(workload, models)


def checkpoint_bytes(parameters: float, catalog: Catalog) -> float:
    return parameters * catalog.parameter("checkpoint.bytes").value


def list_checkpoints(needs: Needs, models: Mapping[str, ModelSpec], catalog: Catalog) -> Iterable[StoredData]:
    """Yield the kept checkpoints of each training workload; the run waits while one is written."""
    kept, write_s = (catalog.parameter(name).value for name in ("checkpoint.kept", "checkpoint.write"))
    for workload in needs.workloads:
        count = count_trained_parameters(workload, models) if workload.kind in TRAINING_KINDS else None
        if count is None:
            continue
        one = checkpoint_bytes(count, catalog)
        stored, tier = (one * kept,) * needs.budget.horizon_months, choose_tier(one / write_s, catalog)
        why = f"{count / 1e9:.3g}e9 trained parameters, each checkpoint written within {write_s:g} s"
        name, facts = f"checkpoints of {workload.name}", ("checkpoint.bytes", "checkpoint.kept")
        yield StoredData(name, tier, stored, facts, one / write_s, workload=workload.name, why=why)


def list_model_files(needs: Needs, models: Mapping[str, ModelSpec], catalog: Catalog) -> Iterable[StoredData]:
    """Yield the weights of every served and trained model in 16 bits, in several versions."""
    versions, load_s = (catalog.parameter(name).value for name in ("model.versions", "model.load"))
    for workload in needs.workloads:
        count = count_trained_parameters(workload, models)
        if count is None:
            continue
        one = WEIGHT_BYTES * count
        stored, tier = (versions * one,) * needs.budget.horizon_months, choose_tier(one / load_s, catalog)
        why = f"{count / 1e9:.3g}e9 parameters, loaded by a new replica within {load_s:g} s"
        name, facts = f"model files of {workload.name}", ("model.versions",)
        yield StoredData(name, tier, stored, facts, one / load_s, workload=workload.name, why=why)


def choose_tier(bandwidth: float, catalog: Catalog) -> StorageTier:
    """Return "object" if one machine's streams carry `bandwidth` bytes/s, else "file" (shared flash)."""
    return "object" if bandwidth <= catalog.parameter("object.bandwidth").value else "file"


def size_logs(needs: Needs, requests_by_month: tuple[float, ...], catalog: Catalog) -> StoredData:
    """Return the logs and audit records of the requests within the retention; none exist before the first month.

    The requests of a month count as evenly spread over it."""
    days, _ = log_retention_days(needs, catalog)
    record, window = catalog.parameter("log.bytes").value, days * 24 / 730
    stored = []
    for now in (month + 0.5 for month in range(len(requests_by_month))):
        first = max(0, math.floor(now - window))
        recent = requests_by_month[first : math.ceil(now)]
        shares = (min(now, month + 1.0) - max(now - window, float(month)) for month in itertools.count(first))
        kept = (count * share for count, share in zip(recent, shares, strict=False) if share > 0)
        stored.append(record * sum(kept))
    facts = ("log.bytes",) if days != catalog.parameter("log.days").value else ("log.bytes", "log.days")
    why = f"the records of all requests of {days:g} days"
    return StoredData("logs and audit", "object", tuple(stored), facts, why=why)


def log_retention_days(needs: Needs, catalog: Catalog) -> tuple[float, tuple[str, ...]]:
    """Return the retention of logs in days and the clauses that set it: the regulations' highest floor, else usual."""
    floors = [
        (float(days), f"{name} {rule.clause}")
        for name in needs.regulations
        for rule in catalog.regulations[name].controls
        if (days := find_retention_days(rule.feature))
    ]
    usual = catalog.parameter("log.days").value
    longest = max((days for days, _ in floors), default=0.0)
    if longest <= usual:
        return usual, tuple(clause for _, clause in floors)
    return longest, tuple(clause for days, clause in floors if days == longest)


def size_metrics(machines: tuple[float, ...], days: float, catalog: Catalog) -> StoredData:
    """Return the metric series of `machines` per month, kept for `days`."""
    one = catalog.parameter("metrics.bytes").value * days
    stored = tuple(one * count for count in machines)
    return StoredData("metrics", "block", stored, ("metrics.bytes",), why=f"{days:g} days")


def backup_clauses(needs: Needs, catalog: Catalog) -> tuple[str, ...]:
    """Return the clauses that require a backup, in the order of the needs' regulations."""
    return find_clauses(needs, catalog, r"\bbackup\b")


def find_clauses(needs: Needs, catalog: Catalog, words: str) -> tuple[str, ...]:
    """Return the clauses of the needs' regulations whose demand or feature matches the pattern `words`."""
    pattern = re.compile(words, re.IGNORECASE)
    return tuple(
        f"{name} {rule.clause}"
        for name in needs.regulations
        for rule in catalog.regulations[name].controls
        if pattern.search(rule.demand) or pattern.search(rule.feature)
    )


def cache_tier_bytes(workload: Workload, model: ModelSpec) -> float:
    """Return the KV cache bytes of the conversations within CACHE_RETENTION_S at the peak rate, for a cache tier."""
    traffic, rate = workload.traffic, workload.rate
    if workload.kind not in TEXT_KINDS or traffic is None or rate is None or traffic.input_tokens is None:
        return 0.0
    return rate.peak * CACHE_RETENTION_S * cache_bytes(model, traffic.input_tokens.mean)
