"""Limits of service where answers are bought and nobody tells how fast or how often they come.

What is known of such answers is a band of our own, as wide as what is physically possible and commonly seen: no model
answers before a message was there and back and its prompt was read. A limit below the band is missed; one inside it is
neither held nor broken, and an option that rests on it comes after those that are known to hold (choose.py).
"""

from __future__ import annotations

from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.contract.estimate import Estimate
from archwright.contract.needs import Workload
from archwright.contract.plan import Miss
from archwright.contract.record import replace
from archwright.plan.accounting.budget import UNPROVEN
from archwright.plan.demand.forecast import Demand
from archwright.plan.explain.formatting import digits

FIRST, READ, TOKEN, AVAILABLE = "hosted.first", "hosted.read", "hosted.token", "unpromised.availability"


class Found(NamedTuple):
    """What a limit comes to."""

    misses: tuple[Miss, ...] = ()
    notes: tuple[str, ...] = ()


def latencies(demand: Demand, round_trip: str, catalog: Catalog) -> dict[str, Estimate]:
    """The band of each latency, in seconds: TTFT p95 = round trip + first token + p95 prompt / reading rate; whole =
    TTFT + time of a token x (mean answer - 1). `round_trip` is a part of the catalog.
    """
    read, token, prompt = catalog.part(READ), catalog.part(TOKEN), demand.input_tokens.p95
    reading = read.dividing(prompt, "s")
    ttft = _after(catalog.part(round_trip), catalog.part(FIRST), reading)
    written = token.scaled(max(demand.output_tokens.mean - 1, 0.0), unit="s")
    return {"ttft_p95_s": ttft, "tpot_p95_s": token, "latency_p95_s": _after(ttft, written)}


def _after(*parts: Estimate) -> Estimate:
    """One after the other: the ends are what is possible, so that they add up, whatever chance would say."""
    low, value, high = (sum(ends) for ends in zip(*((one.low, one.value, one.high) for one in parts), strict=True))
    return Estimate(value=value, low=low, high=high, unit="s")


def judge_unpromised(demand: Demand, round_trip: str, provider: str, catalog: Catalog) -> Found:
    """Every stated latency against its band."""
    slo, misses, notes = demand.workload.slo, list[Miss](), list[str]()
    for field, band in latencies(demand, round_trip, catalog).items():
        limit, name = getattr(slo, field), f"{demand.workload.name}.{field}"
        if limit is not None and limit < band.low:
            misses.append(Miss(constraint=name, value=band.low, limit=limit, at_best=True))
        elif limit is not None and limit < band.high:
            notes.append(f"{_possible(name, limit, band, provider)}; measure it with `archwright bench URL`")
    return Found(tuple(misses), tuple(notes))


def latency_risk(workload: Workload, warm: Estimate, start_s: float, provider: str) -> tuple[str, ...]:
    """The note of a stated latency of what is no text: `warm` at best, at worst after a cold start of `start_s`.
    A limit below that was missed when the worker was sized.
    """
    limit, band = workload.slo.latency_p95_s, replace(warm, high=start_s + warm.high)
    if limit is None or limit >= band.high:
        return ()
    return (_possible(f"{workload.name}.latency_p95_s", limit, band, provider),)


def _possible(name: str, limit: float, band: Estimate, provider: str) -> str:
    return (
        f"{UNPROVEN}{name} limit {limit:g}: nobody promises the latency of {provider}, anything from "
        f"{digits(band.low)} to {digits(band.high)} is possible"
    )


def availability_risk(workload: Workload, provider: str, catalog: Catalog) -> Found:
    """The miss or the note of a stated availability."""
    limit, name, band = workload.slo.availability, f"{workload.name}.availability", catalog.part(AVAILABLE)
    if limit is None or limit <= band.low:
        return Found()
    if limit > band.high:
        return Found((Miss(constraint=name, value=band.high, limit=limit, at_best=True),))
    return Found((), (f"{UNPROVEN}{name} limit {limit:g}: nobody promises the availability of {provider}",))
