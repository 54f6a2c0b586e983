"""Service limits of the needs against what was found: latency (lower is better) and availability (higher is).

A latency limit (time to the last byte) is judged on TTFT p95 + TPOT p95 x (mean output - 1).
"""

from __future__ import annotations

from archwright.contract.estimate import Estimate, exact_estimate, sum_estimates
from archwright.contract.needs import SLO
from archwright.contract.plan import ConstraintViolation, LoadSpec
from archwright.plan.accounting.budget import AT_RISK, check_limit
from archwright.plan.capacity.availability import RedundancyRequirement
from archwright.plan.violations import Misses, make_miss
from archwright.simulate.serving_simulation import ServingSpec, scale_to_replica, simulate_peak


def check_latency(
    load: LoadSpec, slo: SLO, p95: tuple[Estimate, Estimate], found: tuple[list[ConstraintViolation], list[str]]
) -> None:
    """Latency limits against (TTFT, TPOT) at p95; adds to the misses and notes in `found`."""
    (ttft, tpot), (misses, notes), name = p95, found, load.workload
    whole = sum_estimates([ttft, tpot.scaled(max(load.output_tokens.mean - 1, 0.0))], "s")
    check_limit(f"{name}.ttft_p95_s", ttft, slo.ttft_p95_s, misses, notes)
    check_limit(f"{name}.tpot_p95_s", tpot, slo.tpot_p95_s, misses, notes)
    check_limit(f"{name}.latency_p95_s", whole, slo.latency_p95_s, misses, notes)


def find_latency_misses(spec: ServingSpec, slo: SLO) -> Misses:
    """The latency limits that one run at the predicted speed breaks: a prediction's values, without their bands."""
    found, misses = simulate_peak(scale_to_replica(spec), 1.0), list[ConstraintViolation]()
    check_latency(
        spec.load, slo, (exact_estimate(found.ttft_p95_s, "s"), exact_estimate(found.tpot_p95_s, "s")), (misses, [])
    )
    return tuple(misses)


def check_availability(
    workload: str, up: RedundancyRequirement, slo: SLO, misses: list[ConstraintViolation], notes: list[str]
) -> None:
    """Higher is better here; at risk when the limit lies above the band's low end."""
    limit, share = slo.availability, up.estimate_availability()
    if limit is None:
        return
    if share.value < limit:
        misses.append(make_miss(f"{workload}.availability", share.value, limit))
    elif share.low < limit:
        notes.append(f"{AT_RISK}{workload}.availability limit {limit:g} lies inside the band {share.low:.4g} .. 1")
    if up.place is not None and up.is_limited_by_place(limit):
        notes.append(
            f"{workload}: availability {limit:.6g} is more than {up.place.said} gives, which is up "
            f"{up.place.up.value:.6g} of the time whatever its machines do: it takes {up.place.beyond}"
        )
