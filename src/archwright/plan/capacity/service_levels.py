"""Check service levels of the needs: latency (lower is better) and availability (higher is better).

The latency limit (time to the last byte) is compared with TTFT p95 + TPOT p95 x (mean output - 1). For hosted models
only an interval of commonly observed values is known: a limit below the interval is missed, and any other limit has a
probability, which ranks the option (decision/selection.py). A trial with the hosted model measures it before anything
is ordered, so even odds are enough there, unless the needs ask for more than the usual certainty.
"""

from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.contract.estimate import Estimate, exact_estimate, sum_estimates
from archwright.contract.needs import DEFAULT_CERTAINTY, SLO, Workload
from archwright.contract.number_format import format_exact
from archwright.contract.plan import ConstraintViolation, LimitProbability, LoadSpec, assess_limit
from archwright.contract.record import replace
from archwright.plan.capacity.availability import RedundancyRequirement
from archwright.plan.demand.forecast import Demand
from archwright.plan.violations import Limits, Misses, assess_availability, build_violation, list_misses
from archwright.simulate.serving_simulation import ServingSpec, scale_to_replica, simulate_peak


def assess_latency(load: LoadSpec, slo: SLO, p95: tuple[Estimate, Estimate]) -> Limits:
    """Return the latency limits with their probabilities by (TTFT, TPOT) at p95."""
    ttft, tpot = p95
    whole = sum_estimates([ttft, tpot.scaled(max(load.output_tokens.mean - 1, 0.0))], "s", tpot.basis)
    return tuple(
        assess_limit((f"{load.workload}.{field}", limit, slo.certainty), latency)
        for field, latency in (("ttft_p95_s", ttft), ("tpot_p95_s", tpot), ("latency_p95_s", whole))
        if (limit := getattr(slo, field)) is not None
    )


class CheckedLevel(NamedTuple):
    """Limits with their probabilities, those that are missed, and notes."""

    limits: Limits = ()
    misses: Misses = ()
    notes: tuple[str, ...] = ()


def find_latency_misses(spec: ServingSpec, slo: SLO) -> Misses:
    """Return the latency limits that one simulation at the predicted speed breaks, without intervals."""
    found = simulate_peak(scale_to_replica(spec), 1.0)
    p95 = (exact_estimate(found.ttft_p95_s, "s"), exact_estimate(found.tpot_p95_s, "s"))
    return list_misses(assess_latency(spec.load, slo, p95))


def check_availability(workload: Workload, up: RedundancyRequirement) -> CheckedLevel:
    """Check the availability target, if there is one."""
    limit, name = workload.slo.availability, workload.name
    if limit is None:
        return CheckedLevel()
    stated = (f"{name}.availability", limit, workload.slo.certainty)
    assessed, notes = (assess_availability(stated, up.estimate_availability()),), tuple[str, ...]()
    if up.place is not None and up.is_limited_by_place(limit):
        notes = (
            f"{name}: availability {format_exact(limit)} exceeds that of {up.place.said} "
            f"({format_exact(up.place.up.value)}, independent of its machines). Add {up.place.remedy}",
        )
    return CheckedLevel(assessed, list_misses(assessed), notes)


FIRST_TOKEN_PART, READING_RATE_PART, TOKEN_TIME_PART = "hosted.first", "hosted.read", "hosted.token"
AVAILABILITY_PART = "unpromised.availability"
EVEN_ODDS = 0.5


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


def check_unverified_latency(demand: Demand, round_trip: str, provider: str, catalog: Catalog) -> CheckedLevel:
    """Check the latency limits of hosted models at a provider that guarantees none; even odds are usually enough."""
    slo, limits, misses = demand.workload.slo, list[LimitProbability](), list[ConstraintViolation]()
    certainty = slo.certainty if slo.certainty > DEFAULT_CERTAINTY else min(slo.certainty, EVEN_ODDS)
    for field, band in estimate_latency_bands(demand, round_trip, catalog).items():
        limit, name = getattr(slo, field), f"{demand.workload.name}.{field}"
        if limit is not None and limit < band.low:
            misses.append(build_violation(name, band.low, limit, at_best=True))
        elif limit is not None:
            basis = f"{_describe_guarantee(provider, 'latency')}. Measure it with `archwright bench URL`"
            limits.append(assess_limit((name, limit, certainty), band, basis=basis))
    trials = (
        f"{one.limit}: {provider} guarantees no latency, and {one.chance} is likely. Measure it with `archwright bench "
        "URL` before the order"
        for one in limits
        if one.probability < slo.certainty
    )
    return CheckedLevel(tuple(limits), tuple(misses), tuple(trials))


def assess_cold_latency(workload: Workload, warm: Estimate, start_s: float, provider: str) -> Limits:
    """Return the latency limit of a non-text workload: `warm` at best, plus a cold start at worst."""
    limit, band = workload.slo.latency_p95_s, replace(warm, high=start_s + warm.high)
    if limit is None:
        return ()
    stated = (f"{workload.name}.latency_p95_s", limit, workload.slo.certainty)
    return (assess_limit(stated, band, basis=_describe_guarantee(provider, "latency")),)


def _describe_guarantee(provider: str, level: str) -> str:
    return f"{provider} guarantees no {level}; interval of commonly observed values"


def check_unverified_availability(workload: Workload, provider: str, catalog: Catalog) -> CheckedLevel:
    limit, name, band = workload.slo.availability, f"{workload.name}.availability", catalog.parameter(AVAILABILITY_PART)
    if limit is None:
        return CheckedLevel()
    if limit > band.high:
        return CheckedLevel(misses=(build_violation(name, band.high, limit, at_best=True),))
    stated = (name, limit, workload.slo.certainty)
    return CheckedLevel((assess_availability(stated, band, basis=_describe_guarantee(provider, "availability")),))
