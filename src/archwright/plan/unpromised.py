"""Limits of service where answers are bought and nobody tells how fast or how often they come.

A stated limit is then neither held nor broken: the option says that it is at risk and how to find out. No availability
above the best that is commonly promised can be taken on trust: asked for more, the option misses it.
"""

from __future__ import annotations

from archwright.contract.needs import Workload
from archwright.contract.plan import Miss
from archwright.plan.models import UNKNOWN
from archwright.plan.money import AT_RISK

# Assumed: what a provider of answers is down in a year is some hours; nobody is taken on trust for less.
TRUSTED = 0.9995
LATENCIES = ("ttft_p95_s", "tpot_p95_s", "latency_p95_s")


def latency_risks(workload: Workload, provider: str) -> tuple[str, ...]:
    """One note for each stated limit."""
    limits = ((field, getattr(workload.slo, field)) for field in LATENCIES)
    return tuple(
        f"{AT_RISK}{workload.name}.{field} limit {limit:g}: nobody promises the latency of {provider}; measure it "
        "with `archwright bench URL`"
        for field, limit in limits
        if limit is not None
    )


def availability_risk(workload: Workload, provider: str) -> tuple[tuple[Miss, ...], tuple[str, ...]]:
    """The miss or the note of a stated availability."""
    limit, name = workload.slo.availability, f"{workload.name}.availability"
    if limit is None:
        return (), ()
    if limit > TRUSTED:
        return (Miss(constraint=name, value=UNKNOWN, limit=limit),), ()
    return (), (f"{AT_RISK}{name} limit {limit:g}: nobody promises the availability of {provider}",)
