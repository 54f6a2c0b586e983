"""How long a request may wait at the gateway, where the needs say when its first token must be there.

Decides that whoever is let in can still be in time: the limit less what a first token takes once a slot is had, as
predicted for the peak at its 95th percentile, of several pools the slowest. That long a request waits for an engine of
one's own before it goes elsewhere, where there is an elsewhere. Refused is who would wait longer than that, and longer
than 99 of 100 do at the planned peak on the slowest machine of the band (at most the limit itself): who the plan was
made for is let in. A floor keeps what a prediction leaves of a tight limit from refusing every burst.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from archwright.contract.needs import Needs
from archwright.contract.plan import QueueTimeouts
from archwright.simulate.queue_latency import QueueLatencyPrediction

# Of the limit, what a request may wait at least.
MIN_WAIT_SHARE = 0.1


def derive_queue_timeouts(
    needs: Needs, predicted: Mapping[str, tuple[QueueLatencyPrediction, ...]]
) -> dict[str, QueueTimeouts]:
    """By workload: `predicted` holds what each pool's prediction says of its queue."""
    limits = {workload.name: workload.slo.ttft_p95_s for workload in needs.workloads}
    return {
        name: _derive_timeout(limit, found)
        for name, found in predicted.items()
        if (limit := limits.get(name)) is not None
    }


def _derive_timeout(limit: float, found: Iterable[QueueLatencyPrediction]) -> QueueTimeouts:
    found = tuple(found)
    served = max(one.served_p95_s.value for one in found)
    planned = min(limit, max(one.wait_p99_s.high for one in found))
    least = MIN_WAIT_SHARE * limit
    leaves = max(limit - served, least)
    floor = f", at least {MIN_WAIT_SHARE:.0%} of the limit" if leaves == least else ""
    beyond = f"; refused beyond {planned:.3g} s, the 99th of 100 waits at the planned peak" if planned > leaves else ""
    return QueueTimeouts(
        wait_s=_round_seconds(max(leaves, planned)),
        overflow_s=_round_seconds(leaves),
        source=f"TTFT p95 of {limit:g} s less {served:.3g} s, predicted at the peak with a slot in hand{floor}{beyond}",
    )


def _round_seconds(seconds: float) -> float:
    return float(f"{seconds:.3g}")
