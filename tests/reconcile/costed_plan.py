"""A plan with one rented pool and four cost lines, made by hand: two years, the second of half a year."""

from __future__ import annotations

from archwright.contract.estimate import Estimate
from archwright.contract.evidence import Basis
from archwright.contract.needs import TokenLength
from archwright.contract.plan import CostCategory, CostLine, LoadSpec, Plan, TokenPrice
from archwright.contract.record import replace

from ..small_plans import OPTION, PLAN, POOL


def line(
    name: str, category: CostCategory, value: float, *, once: bool = False, years: tuple[float, ...] = ()
) -> CostLine:
    unit = "USD" if once else "USD/month"
    amount = Estimate(value=value, low=0.8 * value, high=1.5 * value, unit=unit)
    return CostLine(name=name, amount=amount, once=once, category=category, by_year=years)


def make_costed_plan(currency: str = "USD", lines: tuple[CostLine, ...] = ()) -> Plan:
    pool = replace(POOL, price_per_token=TokenPrice(input_usd=1e-6, output_usd=5e-6, source="machines of assistant"))
    option = replace(
        OPTION,
        name="cloud-a",
        placement="cloud",
        provider="a",
        regions=("r",),
        cost_per_month=Estimate(value=1000, low=500, high=2000, unit=f"{currency}/month"),
        cost_lines=(
            line("assistant: m.large in r, on-demand", "compute", 1000.0, years=(9000.0, 9000.0)),
            line("data: object storage in r", "storage", 10.0),
            line("switches", "network", 500.0, once=True),
            line("staff beyond the team", "staff", 5000.0),
            *lines,
        ),
        pools=(pool,),
    )
    load = LoadSpec(
        workload="assistant",
        model="null-model",
        requests_per_second=4.0,
        input_tokens=TokenLength(mean=20, p95=40),
        output_tokens=TokenLength(mean=12, p95=24),
        concurrency=2,
    )
    rate = Estimate(value=0.9, low=0.8, high=1.0, unit="EUR/USD")
    basis = Basis(id="exchange.usd-eur", kind="quoted", stratum="quoted", definition="EUR per USD", estimate=rate)
    changes = {"currency": currency, "horizon_months": 18, "options": (option,), "chosen": "cloud-a", "pools": (pool,)}
    return replace(PLAN, loads=(load,), bases=(basis,), **changes)
