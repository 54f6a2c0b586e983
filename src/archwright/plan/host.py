"""Where the platform itself runs when an option has no machines that answer: tokens that are bought still need a
gateway with keys, quotas and audit, and a retrieval beside the data. Else it runs on the machines' host processors.
"""

from __future__ import annotations

from archwright.plan.availability import SPARE_ABOVE
from archwright.plan.demand import HOURS_PER_MONTH
from archwright.plan.placing import Case, answering
from archwright.plan.terms import Term, recurring


def host_terms(case: Case) -> list[Term]:
    """One small rented machine, two where availability asks for a spare; none where a gateway is there already."""
    answers = answering(case.needs)
    served = [workload for workload in case.needs.workloads if workload.name in answers]
    if any(line.kind == "gateway" for line in case.needs.existing):
        return []
    if case.host is None:
        if served and case.where and all(place.placement == "hosted-api" for place in case.where):
            case.ledger.assume(
                "the gateway of a hosted model runs on a machine that is there: no machine may be rented"
            )
        return []
    asked = max(workload.slo.availability or 0.0 for workload in served)
    count = 2 if asked > SPARE_ABOVE else 1
    price = case.quotes.offer(case.host)
    usd = count * price.usd * HOURS_PER_MONTH
    line = f"host of gateway and retrieval: {count} x {case.host.instance_type} in {case.host.region}"
    return [recurring(line, "platform", usd, case.months, price.drivers)]
