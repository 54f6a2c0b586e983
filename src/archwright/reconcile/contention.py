"""Is a measured speed judged, given what other programs and the hypervisor took of the machine meanwhile?

Design: a speed is not judged under more contention than the plan was made for, whether it lies inside its interval or
not: a speed that is inside then says as little about the plan as a speed that is outside. Memory, disk and start-up are
judged always. A plan that was not made on the machine it runs on assumes a machine without contention.
"""

from archwright.contract.contention import Contention
from archwright.contract.plan import Plan

SPEED_METRICS = frozenset({"ttft_s", "tpot_s", "latency_s", "tokens_per_s", "requests_per_s", "requests"})
# Differences to the plan above which speeds are not judged: in shares of the machine's CPU time, and of the frequency.
OTHERS_TOLERANCE = 0.10
STEAL_TOLERANCE = 0.05
FREQUENCY_TOLERANCE = 0.10
LOCAL_PLACEMENT = "this-machine"


def find_planned_contention(plan: Plan) -> Contention | None:
    """Return the contention of the machine for which a plan was made; None if it was made for other machines."""
    option = plan.chosen_option
    if plan.machine is None or option is None or option.placement != LOCAL_PLACEMENT:
        return None
    return plan.machine.contention


def explain_contention(metric: str, planned: Contention | None, measured: Contention | None) -> str:
    """Return why a measurement under contention is not judged, with both figures; empty if it is judged."""
    if measured is None or metric not in SPEED_METRICS:
        return ""
    baseline = planned or Contention()
    others = _explain_share("other programs used", baseline.other_share, measured.other_share, OTHERS_TOLERANCE)
    steal = _explain_share("the hypervisor took", baseline.steal_share, measured.steal_share, STEAL_TOLERANCE)
    frequency = _explain_frequency(baseline.frequency_hz, measured.frequency_hz)
    return "; ".join(filter(None, (others, steal, frequency)))


def _explain_share(actor: str, planned: float | None, measured: float | None, tolerance: float) -> str:
    if measured is None:
        return ""
    # Shares are rounded to 3 digits, and their difference is not.
    excess = round(measured - (planned or 0.0), 3)
    if excess <= tolerance:
        return ""
    reference = "the plan assumes none"
    if planned is not None:
        reference = f"{planned:.0%} when the plan measured this machine"
    return f"{actor} {measured:.0%} of the processor during the bench, {reference}"


def _explain_frequency(planned_hz: float | None, measured_hz: float | None) -> str:
    if planned_hz is None or measured_hz is None:
        return ""
    least_hz = planned_hz * (1 - FREQUENCY_TOLERANCE)
    if measured_hz >= least_hz:
        return ""
    during = f"the processor ran at {measured_hz / 1e9:.2f} GHz during the bench"
    return f"{during}, {planned_hz / 1e9:.2f} GHz when the plan measured this machine"
