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
from archwright.contract.plan import ConstraintViolation
from archwright.contract.record import replace
from archwright.plan.accounting.budget import UNVERIFIED
from archwright.plan.demand.forecast import Demand
from archwright.plan.explain.formatting import format_number
from archwright.plan.violations import Misses, make_miss

FIRST_TOKEN_PART, READING_RATE_PART, TOKEN_TIME_PART, AVAILABILITY_PART = (
    "hosted.first",
    "hosted.read",
    "hosted.token",
    "unpromised.availability",
)


class UnverifiedLevel(NamedTuple):
    """What a limit comes to."""

    misses: Misses = ()
    notes: tuple[str, ...] = ()


def estimate_latency_bands(demand: Demand, round_trip: str, catalog: Catalog) -> dict[str, Estimate]:
    """The band of each latency, in seconds: TTFT p95 = round trip + first token + p95 prompt / reading rate; whole =
    TTFT + time of a token x (mean answer - 1). `round_trip` is a part of the catalog.
    """
    read, token, prompt = (
        catalog.parameter(READING_RATE_PART),
        catalog.parameter(TOKEN_TIME_PART),
        demand.input_tokens.p95,
    )
    reading = read.divide_amount(prompt, "s")
    ttft = _add_in_sequence(catalog.parameter(round_trip), catalog.parameter(FIRST_TOKEN_PART), reading)
    written = token.scaled(max(demand.output_tokens.mean - 1, 0.0), unit="s")
    return {"ttft_p95_s": ttft, "tpot_p95_s": token, "latency_p95_s": _add_in_sequence(ttft, written)}


def _add_in_sequence(*parts: Estimate) -> Estimate:
    """One after the other: the ends are what is possible, so that they add up, whatever chance would say."""
    low, value, high = (sum(ends) for ends in zip(*((one.low, one.value, one.high) for one in parts), strict=True))
    return Estimate(value=value, low=low, high=high, unit="s")


def check_unverified_latency(demand: Demand, round_trip: str, provider: str, catalog: Catalog) -> UnverifiedLevel:
    """Every stated latency against its band."""
    slo, misses, notes = demand.workload.slo, list[ConstraintViolation](), list[str]()
    for field, band in estimate_latency_bands(demand, round_trip, catalog).items():
        limit, name = getattr(slo, field), f"{demand.workload.name}.{field}"
        if limit is not None and limit < band.low:
            misses.append(make_miss(name, band.low, limit, at_best=True))
        elif limit is not None and limit < band.high:
            notes.append(f"{_format_latency_risk(name, limit, band, provider)}; measure it with `archwright bench URL`")
    return UnverifiedLevel(tuple(misses), tuple(notes))


def describe_latency_risk(workload: Workload, warm: Estimate, start_s: float, provider: str) -> tuple[str, ...]:
    """The note of a stated latency of what is no text: `warm` at best, at worst after a cold start of `start_s`.
    A limit below that was missed when the worker was sized.
    """
    limit, band = workload.slo.latency_p95_s, replace(warm, high=start_s + warm.high)
    if limit is None or limit >= band.high:
        return ()
    return (_format_latency_risk(f"{workload.name}.latency_p95_s", limit, band, provider),)


def _format_latency_risk(name: str, limit: float, band: Estimate, provider: str) -> str:
    return (
        f"{UNVERIFIED}{name} limit {limit:g}: nobody promises the latency of {provider}, anything from "
        f"{format_number(band.low)} to {format_number(band.high)} is possible"
    )


def check_unverified_availability(workload: Workload, provider: str, catalog: Catalog) -> UnverifiedLevel:
    """The miss or the note of a stated availability."""
    limit, name, band = workload.slo.availability, f"{workload.name}.availability", catalog.parameter(AVAILABILITY_PART)
    if limit is None or limit <= band.low:
        return UnverifiedLevel()
    if limit > band.high:
        return UnverifiedLevel((make_miss(name, band.high, limit, at_best=True),))
    return UnverifiedLevel((), (f"{UNVERIFIED}{name} limit {limit:g}: nobody promises the availability of {provider}",))
