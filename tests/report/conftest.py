"""Documents of plans that hold much, nothing, too much, and ill will."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from archwright.catalog.load import load_catalog
from archwright.contract.decision import Decision
from archwright.contract.estimate import Estimate
from archwright.contract.plan import ConstraintViolation, Option, Plan, WorkloadPlan
from archwright.contract.record import replace
from archwright.report.document import Document
from archwright.report.document_builder import build_document

from ..plan.option_samples import EMPTY_PLAN
from .full_plan import BOARD, pool

LONG = "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft-" * 3
HOSTILE = "<script>alert(1)</script> #panic(\"no\") $x$ *b* `c` </style> =cmd|' /C calc'!A0 漢字 \u202eevil\x07"
WORKLOADS = 60


def many() -> Plan:
    """Sixty workloads in sixty pools, sixty options."""
    places = [("cloud", "aws"), ("cloud", "azure"), ("on-premises", "on-premises")]
    pools = tuple(
        pool(f"pool-{n}", region=f"region-{n % 7}", placement=kind, provider=provider, workload=f"workload-{n}")  # type: ignore[arg-type]
        for n in range(WORKLOADS)
        for kind, provider in [places[n % 3]]
    )
    first = replace(BOARD.options[0], pools=pools)
    others = tuple(replace(one, name=f"{one.name}-{n}") for n in range(12) for one in BOARD.options[1:])
    workloads = tuple(WorkloadPlan(name=f"workload-{n}", model="m", pools=(f"pool-{n}",)) for n in range(WORKLOADS))
    predictions = tuple(
        replace(one, id=f"workload-{n}.{one.metric}.{one.query.statistic}")
        for n in range(WORKLOADS)
        for one in BOARD.predictions[:5]
    )
    return replace(BOARD, options=(first, *others), workloads=workloads, pools=pools, predictions=predictions)


def nothing_feasible() -> Plan:
    miss = (ConstraintViolation(constraint="capex", value=4.8e6, limit=1e6),)
    options = tuple(replace(one, feasible=False, misses=one.misses or miss) for one in BOARD.options)
    return replace(BOARD, chosen=None, options=options, pools=(), predictions=(), decision=Decision())


def huge() -> Plan:
    """Amounts of a million millions, names that fill lines, texts that would like to be code."""

    def more(estimate: Estimate | None) -> Estimate | None:
        return None if estimate is None else estimate.scaled(1e6)

    own = BOARD.options[0]
    big: Option = replace(
        own,
        name=LONG,
        total_cost=more(own.total_cost),
        cost_per_month=more(own.cost_per_month),
        capex=more(own.capex),
        cost_lines=tuple(
            replace(line, name=LONG + line.name, amount=replace(line.amount, value=line.amount.high))
            for line in own.cost_lines
        ),
        cumulative_cost=tuple(1e6 * paid for paid in own.cumulative_cost),
        regions=tuple(f"{LONG[:60]}{n}" for n in range(9)),
        pools=tuple(replace(one, name=LONG, model=LONG, region=LONG, machine=LONG) for one in own.pools),
        notes=(HOSTILE,),
    )
    return replace(BOARD, organisation=f"{HOSTILE} {LONG}", chosen=LONG, options=(big, *BOARD.options[1:]))


PLANS: dict[str, Callable[[], Plan]] = {
    "board": lambda: BOARD,
    "many": many,
    "nothing": nothing_feasible,
    "empty": lambda: EMPTY_PLAN,
    "huge": huge,
}


@pytest.fixture(params=PLANS)
def any_document(request: pytest.FixtureRequest) -> Document:
    return build_document(PLANS[request.param](), load_catalog())


@pytest.fixture(scope="session")
def board() -> Document:
    return build_document(BOARD, load_catalog())


@pytest.fixture(scope="session")
def hostile() -> Document:
    return build_document(huge(), load_catalog())
