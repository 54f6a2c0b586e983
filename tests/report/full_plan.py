"""A plan with everything that a report can show: its options here, the rest in full_plan.yaml."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path
from typing import Any

import msgspec
import yaml

from archwright.contract.estimate import Estimate, within_factor
from archwright.contract.needs import Placement
from archwright.contract.plan import (
    ConstraintViolation,
    CostCategory,
    CostLine,
    Launch,
    Option,
    Parallelism,
    Plan,
    Pool,
    Purchase,
    assess_limit,
)
from archwright.contract.record import replace

from ..plan.option_samples import build_option

MONTHS = 60
EUR = "EUR"


def line(name: str, category: CostCategory, amount: float, *, once: bool = False, basis: str = "offer.gpu") -> CostLine:
    unit = EUR if once else f"{EUR}/month"
    low, high = sorted((amount / 1.15, amount * 1.2))
    band = Estimate(value=amount, low=low, high=high, unit=unit, basis="cost")
    return CostLine(
        name=name,
        amount=band,
        once=once,
        category=category,
        drivers=(basis,),
        recurring_budget=category != "staff",
        by_year=_split_years(category, amount, once=once),
    )


def _split_years(category: CostCategory, amount: float, *, once: bool) -> tuple[float, ...]:
    """A purchase is paid in the first year, a resale value in the last."""
    years = MONTHS // 12
    if not once:
        return (12 * amount,) * years
    return (*(0.0,) * (years - 1), amount) if category == "residual" else (amount, *(0.0,) * (years - 1))


OWN_LINES = (
    line("16 machines of 8 accelerators", "purchase", 4_480_000, once=True, basis="node.price"),
    line("leaf and spine switches", "purchase", 310_000, once=True, basis="node.price"),
    line("residual value of the machines", "residual", -420_000, once=True, basis="node.price"),
    line("support and spares", "support", 31_000),
    line("electricity with cooling", "energy", 24_500, basis="electricity.fr"),
    line("space for the racks", "facility", 9_800),
    line("bursts on rented machines", "compute", 88_000),
    line("object storage", "storage", 27_400),
    line("traffic out of the cloud", "egress", 3_900),
    line("connection between site and cloud", "network", 4_200),
    line("two platform engineers", "staff", 21_000),
)
CLOUD_LINES = (
    line("rented machines, committed for three years", "compute", 221_000),
    line("object storage", "storage", 31_000),
    line("traffic out", "egress", 12_500),
    line("cluster control planes", "platform", 2_100),
    line("one platform engineer", "staff", 10_500),
)


def pool(name: str, *, region: str, placement: Placement, provider: str, workload: str = "assistant") -> Pool:
    return Pool(
        name=name,
        model="Qwen3-235B-A22B-Instruct",
        workloads=(workload,),
        placement=placement,
        provider=provider,
        region=region,
        machine="8x H100 SXM",
        accelerator="H100-SXM-80GB",
        accelerator_count=8,
        replicas=4,
        slots=96,
        context_tokens=16384,
        default_max_tokens=1100,
        quantisation="fp8",
        launch=Launch(engine="vllm", settings={"tensor-parallel-size": 8, "max-num-seqs": 96}),
        parallelism=Parallelism(tensor=8),
        price_usd_per_hour=within_factor(31.4, 1.1, "USD/h", "offer.gpu"),
    )


def option(name: str, lines: tuple[CostLine, ...], *misses: ConstraintViolation, **place: Any) -> Option:
    """Sums follow from the lines."""
    monthly, once = (sum(one.amount.value for one in lines if one.once == kind) for kind in (False, True))
    run = sum(one.amount.value for one in lines if not one.once and one.recurring_budget)
    bought = sum(one.amount.value for one in lines if one.once and one.category == "purchase")
    flow = [monthly + (bought if month == 0 else 0.0) for month in range(MONTHS)]
    flow[-1] += once - bought
    total = monthly * MONTHS + once
    return build_option(
        name,
        Estimate(value=total, low=total * 0.86, high=total * 1.21, unit=EUR, basis="cost"),
        *misses,
        cost_per_month=Estimate(value=run, low=run * 0.84, high=run * 1.22, unit=f"{EUR}/month", basis="cost"),
        capex=Estimate(value=bought, low=bought * 0.9, high=bought * 1.15, unit=EUR, basis="cost"),
        cost_lines=lines,
        models={"assistant": "Qwen3-235B-A22B-Instruct", "downtime": "gradient-boosted trees"},
        cumulative_cost=tuple(accumulate(flow)),
        **place,
    )


REGIONS = ("FR", "eu-west-3", "us-east-1", "ap-southeast-1")


HYBRID = replace(
    option("hybrid-own-base", OWN_LINES, placement="hybrid", provider="aws", regions=REGIONS),
    pools=(
        pool("assistant-eea", region="FR", placement="on-premises", provider="on-premises"),
        pool("house-model", region="FR", placement="on-premises", provider="on-premises", workload="house-model"),
        pool("assistant-us", region="us-east-1", placement="cloud", provider="aws"),
        pool("assistant-apac", region="ap-southeast-1", placement="cloud", provider="aws"),
    ),
    notes=(
        "net present value at 8 % a year: 13.1 M EUR",
        "the four machines already owned carry the base load of the assistant",
    ),
    limits=(
        assess_limit(("per_month", 200_000.0, 0.7), Estimate(value=191e3, low=159e3, high=230e3, unit="EUR/month")),
    ),
    power_kw=within_factor(171.0, 1.15, "kW", "cost"),
    rack_units=144.0,
    energy_kwh_per_month=within_factor(98_000, 1.2, "kWh/month", "cost"),
    carbon_kg_per_month=within_factor(5_300, 1.4, "kg/month", "cost"),
    purchases=(
        Purchase(pool="assistant-eea", machine="8x H100 SXM", kind="owned", machines=4.0, peak=4),
        Purchase(pool="house-model", machine="8x H100 SXM", kind="bought", machines=12.0, peak=12),
        Purchase(pool="assistant-us", machine="p5.48xlarge", kind="spot", machines=2.3, peak=5),
    ),
)
MANAGED, SERVERS, MORE = (
    line("surcharge of the managed platform", "platform", 34_000),
    line("twelve more machines", "purchase", 3_360_000, once=True),
    line("more machines", "compute", 610_000),
)
DEAR = ConstraintViolation(constraint="per_month", value=912_400.0, limit=900_000.0)
ABROAD = ConstraintViolation(constraint="residency", value="US", limit="EEA")
OPTIONS = (
    HYBRID,
    option("cloud-aws-commit-3y", CLOUD_LINES, provider="aws", regions=("eu-west-3", "us-east-1")),
    option("cloud-azure", (*CLOUD_LINES, MANAGED), provider="azure", regions=("francecentral",)),
    option("on-premises-only", (*OWN_LINES, SERVERS), placement="on-premises", provider="on-premises", regions=("FR",)),
    option("cloud-gcp", (*CLOUD_LINES, MORE), DEAR, provider="gcp", regions=("europe-west9",)),
    build_option("hosted-openai", None, ABROAD, placement="hosted-api", provider="openai"),
)

BOARD = replace(
    msgspec.convert(
        {
            "chosen": None,
            "options": (),
            "pools": (),
            **yaml.load(Path(__file__).with_suffix(".yaml").read_text(), yaml.CSafeLoader),
        },
        type=Plan,
    ),
    chosen=HYBRID.name,
    options=OPTIONS,
    pools=HYBRID.pools,
)
DECISION, PREDICTIONS = BOARD.decision, BOARD.predictions
