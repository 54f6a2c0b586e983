"""A plan that holds everything a report can show, written down by hand: figures are plausible, not computed."""

from __future__ import annotations

from itertools import accumulate
from typing import Literal

from archwright.contract.decision import CostDriver, Decision, ReturnOnInvestment, Rival, Section, SectionLine
from archwright.contract.estimate import Estimate, exact_estimate, within_factor
from archwright.contract.evidence import Basis, Control, Prediction, Query, Statistic
from archwright.contract.needs import Placement, TokenLength
from archwright.contract.plan import (
    ConstraintViolation,
    CostCategory,
    CostLine,
    Launch,
    LoadSpec,
    Option,
    Parallelism,
    Plan,
    Pool,
    Purchase,
    StackLine,
    WorkloadPlan,
)
from archwright.contract.record import replace

Status = Literal["built-in", "configured", "organisational", "later"]
MONTHS = 60
EUR = "EUR"
ROWS = "https://example.org/price-list?region=eu-central-1"


def line(name: str, category: CostCategory, amount: float, *, once: bool = False, basis: str = "offer.gpu") -> CostLine:
    unit = EUR if once else f"{EUR}/month"
    low, high = sorted((amount / 1.15, amount * 1.2))
    band = Estimate(value=amount, low=low, high=high, unit=unit, basis="cost")
    return CostLine(
        name=name, amount=band, once=once, category=category, drivers=(basis,), recurring_budget=category != "staff"
    )


OWN_LINES = (
    line("16 machines of 8 accelerators", "purchase", 4_480_000, once=True, basis="node.price"),
    line("leaf and spine switches", "purchase", 310_000, once=True, basis="node.price"),
    line("residual value of the machines", "residual", -420_000, once=True, basis="node.price"),
    line("support and spares", "support", 31_000),
    line("electricity with cooling", "energy", 24_500, basis="electricity.fr"),
    line("space in the house", "facility", 9_800),
    line("bursts on rented machines", "compute", 88_000),
    line("object storage", "storage", 27_400),
    line("traffic out of the cloud", "egress", 3_900),
    line("connection between house and cloud", "network", 4_200),
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


def option(
    name: str,
    lines: tuple[CostLine, ...],
    *,
    placement: Placement,
    provider: str,
    regions: tuple[str, ...],
    misses: tuple[ConstraintViolation, ...] = (),
) -> Option:
    """Sums follow from the lines."""
    monthly = sum(one.amount.value for one in lines if not one.once)
    run = sum(one.amount.value for one in lines if not one.once and one.recurring_budget)
    bought = sum(one.amount.value for one in lines if one.once and one.category == "purchase")
    once = sum(one.amount.value for one in lines if one.once)
    flow = [monthly + (bought if month == 0 else 0.0) for month in range(MONTHS)]
    flow[-1] += once - bought
    total = monthly * MONTHS + once
    return Option(
        name=name,
        placement=placement,
        provider=provider,
        regions=regions,
        feasible=not misses,
        misses=misses,
        total_cost=Estimate(value=total, low=total * 0.86, high=total * 1.21, unit=EUR, basis="cost"),
        cost_per_month=Estimate(value=run, low=run * 0.84, high=run * 1.22, unit=f"{EUR}/month", basis="cost"),
        capex=Estimate(value=bought, low=bought * 0.9, high=bought * 1.15, unit=EUR, basis="cost"),
        cost_lines=lines,
        models={"assistant": "Qwen3-235B-A22B-Instruct", "downtime": "gradient-boosted trees"},
        cumulative_cost=tuple(accumulate(flow)),
    )


HYBRID = replace(
    option(
        "hybrid-own-base",
        OWN_LINES,
        placement="hybrid",
        provider="aws",
        regions=("FR", "eu-west-3", "us-east-1", "ap-southeast-1"),
    ),
    pools=(
        pool("assistant-eea", region="FR", placement="on-premises", provider="on-premises"),
        pool("house-model", region="FR", placement="on-premises", provider="on-premises", workload="house-model"),
        pool("assistant-us", region="us-east-1", placement="cloud", provider="aws"),
        pool("assistant-apac", region="ap-southeast-1", placement="cloud", provider="aws"),
    ),
    notes=(
        "at risk: per_month limit 200,000 lies inside the band 159,000 .. 230,000",
        "net present value at 8 % a year: 13.1 M EUR",
        "the four machines already owned carry the base load of the assistant",
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
OPTIONS = (
    HYBRID,
    option("cloud-aws-commit-3y", CLOUD_LINES, placement="cloud", provider="aws", regions=("eu-west-3", "us-east-1")),
    option(
        "cloud-azure",
        (*CLOUD_LINES, line("surcharge of the managed platform", "platform", 34_000)),
        placement="cloud",
        provider="azure",
        regions=("francecentral",),
    ),
    option(
        "on-premises-only",
        (*OWN_LINES, line("twelve more machines", "purchase", 3_360_000, once=True)),
        placement="on-premises",
        provider="on-premises",
        regions=("FR",),
    ),
    option(
        "cloud-gcp",
        (*CLOUD_LINES, line("more machines", "compute", 610_000)),
        placement="cloud",
        provider="gcp",
        regions=("europe-west9",),
        misses=(ConstraintViolation(constraint="per_month", value=912_400.0, limit=900_000.0),),
    ),
    Option(
        name="hosted-openai",
        placement="hosted-api",
        provider="openai",
        regions=(),
        feasible=False,
        misses=(ConstraintViolation(constraint="residency", value="US", limit="EEA"),),
        total_cost=None,
        cost_per_month=None,
        capex=None,
    ),
)

DECISION = Decision(
    axes=("total cost", "capex", "carbon", "risk"),
    pareto=("hybrid-own-base", "cloud-aws-commit-3y"),
    rivals=(
        Rival(option="cloud-aws-commit-3y", cheaper=0.41, tie=True, break_even_month=None),
        Rival(option="cloud-azure", cheaper=0.18, tie=False, break_even_month=48),
        Rival(option="on-premises-only", cheaper=0.05, tie=False, break_even_month=1),
    ),
    drivers=(
        CostDriver(
            basis="offer.gpu",
            name="price of a rented machine",
            estimate=within_factor(31.4, 1.25, "USD/h", "offer.gpu"),
            share=0.46,
            flips_to="cloud-aws-commit-3y",
            flips_at=27.9,
            inside=True,
        ),
        CostDriver(
            basis="node.price",
            name="price of a machine of 8 accelerators",
            estimate=within_factor(300_000, 1.3, "USD", "node.price"),
            share=0.31,
            flips_to="cloud-aws-commit-3y",
            flips_at=351_000,
            inside=True,
        ),
        CostDriver(
            basis="electricity.fr",
            name="electricity in France",
            estimate=within_factor(0.14, 1.4, "USD/kWh", "electricity.fr"),
            share=0.06,
            flips_to="cloud-azure",
            flips_at=0.61,
        ),
        CostDriver(
            basis="exchange", name="USD in EUR", estimate=within_factor(0.9, 1.06, "EUR/USD", "exchange"), share=0.04
        ),
    ),
    confidence={"high": 0.52, "medium": 0.41, "recalled": 0.07},
    returns=ReturnOnInvestment(
        value=114_000_000,
        cost=Estimate(value=16e6, low=13e6, high=19e6, unit=EUR),
        net=Estimate(value=98e6, low=95e6, high=101e6, unit=EUR),
        payback_month=4,
        pays=0.9,
    ),
)


def promise(workload: str, metric: str, statistic: Statistic, value: float, unit: str) -> Prediction:
    return Prediction(
        id=f"{workload}.{metric}.{statistic}",
        metric=metric,
        workload=workload,
        estimate=within_factor(value, 1.35, unit, "serving.ttft"),
        query=Query(metric=metric, labels={"workload": workload}, statistic=statistic, window_s=45.0, phase="peak"),
    )


PREDICTIONS = (
    promise("assistant", "ttft_s", "p50", 0.31, "s"),
    promise("assistant", "ttft_s", "p95", 0.72, "s"),
    promise("assistant", "tpot_s", "p50", 0.021, "s"),
    promise("assistant", "tpot_s", "p95", 0.029, "s"),
    promise("assistant", "tokens_per_s", "rate", 31_200.0, "tokens/s"),
    promise("downtime", "latency_s", "p95", 0.012, "s"),
    promise("downtime", "peak_memory_bytes", "max", 41.2e9, "bytes"),
)
BASES = (
    Basis(
        id="offer.gpu",
        kind="quoted",
        stratum="quoted",
        definition="list price of one machine for an hour",
        facts=(f"aws p5.48xlarge eu-west-3: 31.4 USD/h, {ROWS}, 2026-11-20",),
    ),
    Basis(id="node.price", kind="quoted", stratum="quoted", definition="price of a machine of eight accelerators"),
    Basis(id="electricity.fr", kind="quoted", stratum="quoted", definition="commercial electricity in France"),
    Basis(id="exchange", kind="quoted", stratum="quoted", definition="how many EUR one USD buys"),
    Basis(
        id="cost",
        kind="formula",
        stratum="formula",
        definition="a flow of money, proportional to the facts named",
        formula="sum of the cost lines; 2,000 joint draws of every fact; band: 5 % to 95 %",
        facts=("offer.gpu", "node.price", "electricity.fr", "exchange"),
    ),
    Basis(
        id="serving.ttft",
        kind="calibrated",
        stratum="unseen configuration of a seen model and accelerator",
        definition="request received to first content, percentile over the requests of the peak phase",
        formula="wait for a slot + prefill; step = max(FLOPs / (eff x FLOP/s), bytes / (eff x B/s)) + collectives",
        facts=("fit of 2,276 measured rows: docs/accuracy.md",),
    ),
    Basis(id="unused", kind="assumed", stratum="assumed", definition="of another option"),
)


def section_line(topic: str, choice: str, **more: object) -> SectionLine:
    why = f"{choice} keeps the promise at the load the needs state, and costs the least of what does."
    fields: dict[str, object] = {"why": why, "source": "https://example.org/guide", **more}
    return SectionLine(topic=topic, choice=choice, **fields)  # type: ignore[arg-type]


STAGES = (
    "Needs assessment",
    "Hardware",
    "Software stack",
    "Network",
    "Security and compliance",
    "Scale",
    "Monitoring",
)
PRACTICES = ("Scalability", "Data governance", "Optimisation", "Security", "MLOps", "Hybrid", "Monitoring")
SECTIONS = (
    Section(
        id="network",
        title="Network",
        summary="400 Gbit/s Ethernet between the machines; InfiniBand is not needed below 32 machines.",
        lines=(
            section_line(
                "Fabric",
                "400 Gbit/s RoCE, one leaf pair",
                estimate=within_factor(46.0, 1.2, "GB/s"),
                alternative="InfiniBand NDR",
                why_not="the fine-tune of the house model spends 6 % of its time in collectives",
            ),
            section_line("Between regions", "private link, encrypted", proof="archwright audit verify"),
        ),
    ),
    Section(
        id="storage",
        title="Storage",
        summary="Object storage for 2.2 PiB, NVMe beside the machines for checkpoints.",
        lines=(
            section_line("Data", "object storage, 24 months of retention", estimate=exact_estimate(2.4e15, "bytes")),
        ),
    ),
    Section(
        id="stack",
        title="Software stack",
        summary="What is there stays; the rest is archwright with one inference engine.",
        lines=(
            section_line(
                "Training",
                "PyTorch with FSDP",
                alternative="TensorFlow with Horovod",
                why_not="fewer maintained recipes",
            ),
        ),
    ),
    Section(
        id="security",
        title="Security and compliance",
        summary="Keys for every caller, an audit nobody can rewrite, data that stays where it must.",
        lines=(section_line("Audit", "append-only with a hash chain", demanded_by=("gdpr 5(2)", "iso-27001 A.8.15")),),
    ),
    Section(
        id="scale",
        title="Scale",
        summary="4 to 9 replicas over the horizon; prefill breaks first, at 121 requests/s.",
        lines=(section_line("Autoscaling", "4 to 9 replicas in France", estimate=exact_estimate(9.0, "replicas")),),
    ),
    Section(
        id="monitoring",
        title="Monitoring",
        summary="Seven promises, each with the query that judges it.",
        lines=(section_line("Alerts", "TTFT p95 over its limit for five minutes", proof="archwright reconcile"),),
    ),
    Section(
        id="stages",
        title="The seven stages",
        summary="How this plan meets each stage of building AI infrastructure.",
        lines=tuple(section_line(f"{n}. {name}", f"done in chapter {n}") for n, name in enumerate(STAGES, 1)),
    ),
    Section(
        id="practices",
        title="The seven practices",
        summary="What keeps it good after the first day.",
        lines=tuple(section_line(name, f"{name.lower()} by rule, checked every day") for name in PRACTICES),
    ),
    Section(
        id="providers",
        title="How large providers do it",
        summary="What their public write-ups say, and what it means at this size.",
        lines=tuple(section_line(name, "trains on Ethernet, serves from pools per region") for name in ("A", "B", "C")),
    ),
)


def control(article: int, demand: str, feature: str, status: Status, evidence: str = "") -> Control:
    return Control(
        id=f"gdpr.art-{article}",
        demanded_by=f"gdpr Art {article}",
        demand=demand,
        feature=feature,
        evidence=evidence,
        status=status,
    )


CONTROLS = (
    control(5, "accountability", "append-only audit", "built-in", "archwright audit verify"),
    control(32, "encryption in transit", "TLS 1.3", "configured", "the gateway refuses an address without it"),
    control(30, "record of processing", "register", "organisational"),
    control(17, "erasure", "erase a person's data", "later"),
)

BOARD = Plan(
    needs_file="needs.yaml",
    needs_digest="6f0c" * 16,
    catalog_digest="a1b2" * 16,
    created_at="2026-11-24T12:00:00+00:00",
    organisation="Ardent Machines",
    currency=EUR,
    horizon_months=MONTHS,
    chosen=HYBRID.name,
    options=OPTIONS,
    workloads=(
        WorkloadPlan(name="downtime", model="gradient-boosted trees", pools=()),
        WorkloadPlan(name="assistant", model="Qwen3-235B-A22B-Instruct", pools=("assistant-eea",)),
        WorkloadPlan(name="house-model", model="Qwen3-235B-A22B-Instruct", pools=("house-model",)),
        WorkloadPlan(name="telemetry", model=None, pools=()),
    ),
    pools=HYBRID.pools,
    predictions=PREDICTIONS,
    controls=CONTROLS,
    assumptions=(
        "workload assistant: 24 hours a day, the needs do not say",
        "engine start-up of 90 s before a new replica counts",
        "a hosted price stays as it is over the horizon",
    ),
    bases=BASES,
    loads=(
        LoadSpec(
            workload="assistant",
            model="Qwen3-235B-A22B-Instruct",
            requests_per_second=80.0,
            input_tokens=TokenLength(mean=2400, p95=8000),
            output_tokens=TokenLength(mean=380, p95=1100),
            concurrency=512,
        ),
    ),
    stack=(
        StackLine(function="gateway", product="archwright"),
        StackLine(function="lake", product="Delta tables", existing=True, url="https://lake.ardent.example"),
        StackLine(function="monitoring", product="archwright"),
        StackLine(function="training", product="archwright"),
        StackLine(function="engine", product="vLLM"),
    ),
    not_sized=("workload downtime at the plants: no machine of the catalog fits 4 kW",),
    decision=DECISION,
    sections=SECTIONS,
    stale_facts=("offer.gpu: 31 days old, prices live 30 days",),
)
