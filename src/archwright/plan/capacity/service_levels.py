"""Check service levels of the needs: latency (lower is better) and availability (higher is better).

The latency limit (time to the last byte) is compared with TTFT p95 + TPOT p95 x (mean output - 1). For hosted models
only an interval of commonly observed values is known. A limit below the interval is missed; a limit inside it is at
risk. If the expected value breaks the limit, the option is unverified and ranks after verified ones
(decision/selection.py).
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.contract.estimate import Estimate, exact_estimate, sum_estimates
from archwright.contract.needs import SLO, Workload
from archwright.contract.plan import ConstraintViolation, LoadSpec
from archwright.contract.record import replace
from archwright.plan.accounting.budget import AT_RISK, UNVERIFIED, check_limit
from archwright.plan.capacity.availability import RedundancyRequirement
from archwright.plan.demand.forecast import Demand
from archwright.plan.explain.formatting import format_number
from archwright.plan.violations import Misses, build_violation
from archwright.simulate.serving_simulation import ServingSpec, scale_to_replica, simulate_peak


def check_latency(
    load: LoadSpec, slo: SLO, p95: tuple[Estimate, Estimate], found: tuple[list[ConstraintViolation], list[str]]
) -> None:
    """Check latency limits against (TTFT, TPOT) at p95; append to the misses and notes in `found`."""
    ttft, tpot = p95
    whole = sum_estimates([ttft, tpot.scaled(max(load.output_tokens.mean - 1, 0.0))], "s")
    for field, latency in (("ttft_p95_s", ttft), ("tpot_p95_s", tpot), ("latency_p95_s", whole)):
        check_limit(f"{load.workload}.{field}", latency, getattr(slo, field), *found)


def find_latency_misses(spec: ServingSpec, slo: SLO) -> Misses:
    """Return the latency limits that one simulation at the predicted speed breaks, without intervals."""
    found, misses = simulate_peak(scale_to_replica(spec), 1.0), list[ConstraintViolation]()
    p95 = (exact_estimate(found.ttft_p95_s, "s"), exact_estimate(found.tpot_p95_s, "s"))
    check_latency(spec.load, slo, p95, (misses, []))
    return tuple(misses)


def check_availability(
    workload: str, up: RedundancyRequirement, slo: SLO, misses: list[ConstraintViolation], notes: list[str]
) -> None:
    """Check the availability target; at risk if the target is above the low end of the interval."""
    limit, share = slo.availability, up.estimate_availability()
    if limit is None:
        return
    if share.value < limit:
        misses.append(build_violation(f"{workload}.availability", share.value, limit))
    elif share.low < limit:
        notes.append(f"{AT_RISK}{workload}.availability limit {limit:g} is inside the interval {share.low:.4g} .. 1")
    if up.place is not None and up.is_limited_by_place(limit):
        notes.append(
            f"{workload}: availability {limit:.6g} exceeds that of {up.place.said} ({up.place.up.value:.6g}, "
            f"independent of its machines). Add {up.place.remedy}"
        )


UNVERIFIED_NOTE = re.compile(
    rf"{UNVERIFIED}(?P<name>\S+) limit (?P<limit>\S+): \S+ guarantees no \w+; (?P<value>\S+) is expected"
)
FIRST_TOKEN_PART, READING_RATE_PART, TOKEN_TIME_PART = "hosted.first", "hosted.read", "hosted.token"
AVAILABILITY_PART = "unpromised.availability"


class UnverifiedLevel(NamedTuple):
    misses: Misses = ()
    notes: tuple[str, ...] = ()


def estimate_latency_bands(demand: Demand, round_trip: str, catalog: Catalog) -> dict[str, Estimate]:
    """Return the interval of each latency in seconds. `round_trip`: a catalog part.

    TTFT p95 = round trip + first token + p95 prompt / reading rate; latency = TTFT + token time x (mean output - 1).
    """
    token = catalog.parameter(TOKEN_TIME_PART)
    reading = catalog.parameter(READING_RATE_PART).divide_amount(demand.input_tokens.p95, "s")
    ttft = _add_in_sequence(catalog.parameter(round_trip), catalog.parameter(FIRST_TOKEN_PART), reading)
    written = token.scaled(max(demand.output_tokens.mean - 1, 0.0), unit="s")
    return {"ttft_p95_s": ttft, "tpot_p95_s": token, "latency_p95_s": _add_in_sequence(ttft, written)}


def _add_in_sequence(*parts: Estimate) -> Estimate:
    """Add latencies: the ends are possible extremes, so they are added, not combined statistically."""
    low, value, high = (sum(ends) for ends in zip(*((one.low, one.value, one.high) for one in parts), strict=True))
    return Estimate(value=value, low=low, high=high, unit="s")


def check_unverified_latency(demand: Demand, round_trip: str, provider: str, catalog: Catalog) -> UnverifiedLevel:
    slo, misses, notes = demand.workload.slo, list[ConstraintViolation](), list[str]()
    for field, band in estimate_latency_bands(demand, round_trip, catalog).items():
        limit, name = getattr(slo, field), f"{demand.workload.name}.{field}"
        if limit is not None and limit < band.low:
            misses.append(build_violation(name, band.low, limit, at_best=True))
        elif limit is not None and limit < band.high:
            notes.append(f"{_format_latency_risk(name, limit, band, provider)}. Measure it with `archwright bench URL`")
    return UnverifiedLevel(tuple(misses), tuple(notes))


def describe_latency_risk(workload: Workload, warm: Estimate, start_s: float, provider: str) -> tuple[str, ...]:
    """Return the note on a latency limit of a non-text workload: `warm` at best, plus a cold start at worst."""
    limit, band = workload.slo.latency_p95_s, replace(warm, high=start_s + warm.high)
    if limit is None or limit >= band.high:
        return ()
    return (_format_latency_risk(f"{workload.name}.latency_p95_s", limit, band, provider),)


def _format_latency_risk(name: str, limit: float, band: Estimate, provider: str) -> str:
    risk = AT_RISK if band.value <= limit else UNVERIFIED
    return (
        f"{risk}{name} limit {limit:g}: {provider} guarantees no latency; {band.value:.5g} is expected, and "
        f"{format_number(band.low)} to {format_number(band.high)} is possible"
    )


def check_unverified_availability(workload: Workload, provider: str, catalog: Catalog) -> UnverifiedLevel:
    limit, name, band = workload.slo.availability, f"{workload.name}.availability", catalog.parameter(AVAILABILITY_PART)
    if limit is None or limit <= band.low:
        return UnverifiedLevel()
    if limit > band.high:
        return UnverifiedLevel((build_violation(name, band.high, limit, at_best=True),))
    risk = AT_RISK if limit <= band.value else UNVERIFIED
    note = f"{risk}{name} limit {limit:g}: {provider} guarantees no availability; {band.value:.5g} is expected"
    return UnverifiedLevel((), (note,))


def read_unverified_limits(notes: Iterable[str]) -> Misses:
    """Return the limits that only the notes of an option name, with the expected value; () if a note names no limit.

    A note without a limit of the needs, as on a quota, keeps the option unverified whatever the limits are.
    """
    found = [UNVERIFIED_NOTE.match(note) for note in notes if note.startswith(UNVERIFIED)]
    known = [(one["name"], one["value"], one["limit"]) for one in found if one is not None]
    whole = known if len(known) == len(found) else []
    return tuple(build_violation(name, float(value), float(limit)) for name, value, limit in whole)
