"""What a plan says in words: every line has a reason, every proof exists, every clause is asked for."""

from __future__ import annotations

import re
import shlex
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.guidance_rows import Theme, read_advice
from archwright.cli import build_parser
from archwright.contract.decision import Section, SectionLine
from archwright.contract.estimate import Estimate, within_factor
from archwright.contract.evidence import Control
from archwright.contract.metrics import METRICS
from archwright.contract.needs import Needs, NeedsSource, Placement
from archwright.contract.plan import Launch, Plan, Pool, Purchase, PurchaseKind
from archwright.contract.record import replace
from archwright.plan.accounting.fleet import ChosenOption, Location, MachineFleet
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.evidence.controls import list_controls
from archwright.plan.sections import outline
from archwright.plan.sections.outline import build_sections
from archwright.plan.sections.plan_traits import build_template_values, derive_traits, evaluate_traits
from archwright.plan.sections.scaling import compute_headrooms
from archwright.plan.sections.security import build_regulation_line
from archwright.sizing.hardware.machine import Machine

from ..option_samples import build_option

Read = Callable[..., tuple[Needs, NeedsSource]]
Sample = Callable[..., ChosenOption]
THEMES: tuple[Theme, ...] = get_args(Theme)
ORDER = ["network", "storage", "stack", "security", "scale", "monitoring", "stages", "practices", "providers"]
# What each example could choose: placement, provider, region, how machines are had.
CHOICES: dict[str, tuple[Placement, str, str, PurchaseKind]] = {
    "desk": ("this-machine", "this-machine", "DE", "owned"),
    "startup": ("cloud", "gcp", "us-central1", "on-demand"),
    "clinic": ("on-premises", "on-premises", "DE", "bought"),
    "manufacturer": ("hybrid", "on-premises", "FR", "owned"),
}
HOSTED = ("hosted-api", "openai", "US", "per-second")
TASK = re.compile(r"To do: [^.]+|not priced|agree ", re.IGNORECASE)


def chosen_of(catalog: Catalog, needs: Needs, choice: tuple[Placement, str, str, PurchaseKind] | None) -> ChosenOption:
    """A plan as the search would hand it over: one fleet a workload, growing, with a peak."""
    ledger = PlanProvenance()
    if choice is None:
        return ChosenOption(needs, catalog, ledger, None, ())
    placement, provider, region, purchase = choice
    basis = ledger.create_basis("cost", "assumed", "what it costs")
    where = Location(placement, provider, region, region[:2])
    hosted, here, months = placement == "hosted-api", placement == "this-machine", needs.budget.horizon_months
    node = Machine("8x-node", catalog.accelerator("H100-SXM-80GB"), 8, 96, 2.0e12)
    small = Machine("small-node", None, 0, 96, 2.0e12)
    counts, peak = tuple(2.0 + month / (months - 1) for month in range(months)), 1 if here else 4
    fleets = tuple(
        MachineFleet(where, machine, (workload.name,), purchase, counts, peak, busy=0.6, busy_w=5000.0)
        for workload in needs.workloads
        for machine in [small if here or workload.kind == "tabular-prediction" else node]
    )
    served = next(w for w in needs.workloads if w.traffic is not None)
    pool = Pool(
        name=served.name, model="m", workloads=(served.name,), placement=placement, provider=provider, region=region,
        machine="8x-node", accelerator="", accelerator_count=0, replicas=4, slots=32, context_tokens=4096,
        default_max_tokens=256, quantisation="fp8",
        launch=Launch(engine="llamacpp" if here else "vllm", metrics={"ttft_s": "engine:ttft"}),
    )  # fmt: skip
    bought = Purchase(pool=served.name, machine="8x-node", kind=purchase, machines=1.5, peak=2)
    option = build_option(
        "the-option",
        within_factor(1.0e6, 1.3, needs.budget.currency, basis),
        placement=placement,
        provider=provider,
        regions=(region,),
        cost_per_month=within_factor(25_000.0, 1.3, f"{needs.budget.currency}/month", basis),
        capex=within_factor(5e5 if purchase == "bought" else 0.0, 1.2, needs.budget.currency, basis),
        pools=() if hosted else (pool,),
        models={served.name: "m"},
        purchases=(bought, replace(bought, kind="on-demand", machines=0.5)) if placement in ("cloud", "hybrid") else (),
        power_kw=within_factor(22.0, 1.2, "kW", basis) if purchase in ("bought", "owned") else None,
        rack_units=16.0 if purchase == "bought" else None,
    )
    return ChosenOption(needs, catalog, ledger, option, () if hosted else fleets)


@pytest.fixture
def sample(catalog: Catalog, needs_of: Read) -> Sample:
    """What an example could choose; its needs and its choice may differ."""

    def make(name: str, change: Callable[[dict[str, Any]], None] | None = None, **choice: Any) -> ChosenOption:
        return chosen_of(catalog, needs_of(name, change)[0], choice.get("choice", CHOICES[name]))

    return make


def with_option(made: ChosenOption, **changes: Any) -> ChosenOption:
    assert made.option is not None
    return made._replace(option=replace(made.option, **changes))


CHOICES_OF_EACH_COMMIT = {"desk", "clinic"}
CHOSEN = [
    *(name if name in CHOICES_OF_EACH_COMMIT else pytest.param(name, marks=pytest.mark.nightly) for name in CHOICES),
    "hosted",
    "undecided",
]


@pytest.fixture(params=CHOSEN)
def chosen(request: pytest.FixtureRequest, sample: Sample) -> ChosenOption:
    if request.param == "hosted":
        return sample("startup", choice=HOSTED)
    return sample("clinic", choice=None) if request.param == "undecided" else sample(request.param)


def by_id(chosen: ChosenOption) -> dict[str, Section]:
    return {section.id: section for section in build_sections(chosen)}


def find_line(section: Section, topic: str) -> SectionLine:
    return next(line for line in section.lines if line.topic == topic)


def choices_of(section: Section, ending: str) -> list[str]:
    return [line.choice for line in section.lines if line.topic.endswith(ending)]


def lines_of(chosen: ChosenOption) -> list[SectionLine]:
    """Network and storage have tests of their own."""
    return [line for section in build_sections(chosen)[2:] for line in section.lines]


def test_every_line_of_every_section_is_whole(chosen: ChosenOption) -> None:
    """A choice and a reason, no unfilled word, a topic that speaks once, clauses and bases that exist."""
    sections, laws = build_sections(chosen), chosen.catalog.regulations
    assert [section.id for section in sections] == ORDER
    known = {f"{name} {rule.clause}" for name in chosen.needs.regulations for rule in laws[name].controls}
    bases = {"", *(basis.id for basis in chosen.ledger.collect_bases(sections))}
    for section in sections:
        assert section.title and section.summary and section.lines
        assert len({line.topic for line in section.lines}) == len(section.lines), section.id
        for line in section.lines:
            assert line.choice and line.why, line.topic
            assert line.estimate is None or line.estimate.basis in bases, line.topic
    for line in lines_of(chosen):
        assert "{" not in " ".join((line.choice, line.why, line.alternative, line.why_not)), line.topic
        assert set(line.demanded_by) <= known, line.topic
        assert line.proof or TASK.search(line.why), line.topic


def test_a_proof_is_a_verb_that_parses_a_series_of_ours_or_a_control(chosen: ChosenOption) -> None:
    controls = {control.id for control in list_controls(chosen.needs, chosen.catalog, PlanProvenance())}
    series = {metric.name for metric in METRICS}
    for line in lines_of(chosen):
        if line.proof.startswith("archwright "):
            build_parser().parse_args(shlex.split(line.proof)[1:])
        elif "archwright_" in line.proof:
            named = set(re.findall(r"archwright_\w+", line.proof))
            assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in named} <= series, line.topic
            assert line.proof.count("(") == line.proof.count(")"), line.topic
        elif line.proof:
            assert line.proof in controls, line.topic


@pytest.mark.parametrize("theme", THEMES)
def test_rows_name_known_traits_words_and_figures(theme: Theme, sample: Sample) -> None:
    known, traits = build_template_values(sample("clinic")), evaluate_traits(sample("clinic")).keys()
    for row in read_advice(theme):
        assert {*row.when, *row.unless} <= traits, row.id
        for text in (row.choice, row.why, row.alternative, row.why_not):
            assert {name for _, name, _, _ in string.Formatter().parse(text) if name} <= set(known), row.id
        assert row.figure in ("", *FIGURES), row.id
    undecided = build_template_values(sample("clinic", choice=None))
    assert undecided.keys() == known.keys()


def test_traits_are_found_in_the_examples(sample: Sample) -> None:
    found = {trait for name in CHOICES for trait in derive_traits(sample(name))}
    assert {"this-machine", "own-machines", "hybrid", "scales", "training", "sites", "large", "small"} <= found


def test_seven_stages_and_seven_practices(chosen: ChosenOption) -> None:
    found = by_id(chosen)
    assert [line.topic[0] for line in found["stages"].lines] == list("1234567")
    practices = [line.topic for line in found["practices"].lines]
    assert practices == [
        "Scalability", "Data governance", "Optimisation", "Security", "MLOps", "Hybrid", "Monitoring",
    ]  # fmt: skip


def topics(section: Section) -> str:
    return " | ".join(f"{line.topic}: {line.choice} / {line.alternative}" for line in section.lines)


def test_the_stack_names_alternatives_and_nothing_about_training_where_nothing_is_trained(sample: Sample) -> None:
    stack = topics(by_id(sample("manufacturer"))["stack"])
    for alternative in ("TensorFlow", "Horovod", "Spark", "native monitor", "Slurm", "MLflow"):
        assert alternative in stack
    clinic = by_id(sample("clinic"))
    assert "PyTorch" not in topics(clinic["stack"]) and "Training framework" not in topics(clinic["stack"])
    assert "Meta, training at scale" not in topics(clinic["providers"])
    assert "PyTorch" in topics(by_id(sample("startup"))["stack"])


def existing(*kinds: str, url: str | None = "http://10.0.0.1:9090") -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        document["existing"] = [
            {"kind": kind, "product": f"Our {kind}", **({"url": url} if url else {})} for kind in kinds
        ]

    return change


def test_what_runs_already_is_kept_with_its_address_and_replaces_our_line(sample: Sample) -> None:
    found = by_id(sample("clinic", existing("monitoring", "gateway", "lake")))
    kept = {line.topic: line for line in found["stack"].lines if line.topic.endswith("kept")}
    assert kept["Monitoring, kept"].choice == "Our monitoring at http://10.0.0.1:9090"
    assert kept["Monitoring, kept"].proof.endswith("--prometheus http://10.0.0.1:9090")
    assert kept["Gateway, kept"].proof.startswith("archwright bench http://10.0.0.1:9090")
    assert kept["Lake, kept"].proof == "" and "To do: measure it" in kept["Lake, kept"].why
    assert not {"Metrics", "API gateway", "Dashboards and alerts"} & {line.topic for line in found["stack"].lines}
    assert found["monitoring"].lines[0].topic == "Monitoring, kept"


def test_the_address_of_a_kept_tool_is_one_word_of_its_proof(sample: Sample) -> None:
    line = by_id(sample("clinic", existing("monitoring", url=None)))["stack"].lines[0]
    assert line.choice == "Our monitoring" and line.proof == "" and "state its url" in line.why
    line = by_id(sample("clinic", existing("gateway", url="http://x/v1?a=$(id)&b={option}")))["stack"].lines[0]
    assert shlex.split(line.proof)[2] == "http://x/v1?a=$(id)&b={option}"


def test_each_regulation_says_how_much_of_it_is_answered(sample: Sample) -> None:
    made = sample("manufacturer")
    security, laws = by_id(made)["security"], made.catalog.regulations
    for law in (laws[name] for name in made.needs.regulations):
        line = find_line(security, law.name)
        assert line.choice.startswith(f"{len(law.controls)} demands: ")
        assert len(line.demanded_by) == len(law.controls)
    ai = find_line(security, laws["eu-ai-act"].name).why
    assert "11 demands apply only if the use is of high risk" in ai and "1 demand applies" in ai
    assert "2027-12-02" in ai and "35 M EUR" in ai


def find_first(controls: tuple[Control, ...], regulation: str) -> str:
    return next(control.id for control in controls if control.id.startswith(f"{regulation}."))


def test_the_counts_of_controls_follow_from_the_data(sample: Sample) -> None:
    made = sample("clinic")
    controls = list_controls(made.needs, made.catalog, PlanProvenance())
    tasks = [control for control in controls if not control.checks]
    checks = {check for control in controls for check in control.checks}
    summary = by_id(made)["security"].summary
    assert f"{len(controls)} controls: {len(controls) - len(tasks)} have a check" in summary
    assert f"{len(checks)} different checks" in summary and f"; {len(tasks)} are tasks" in summary
    reasons = " ".join(line.why for line in by_id(made)["security"].lines)
    assert "quality management system (" not in reasons and "backup, recovery test (" not in reasons


def test_a_regulation_that_nothing_answers_says_so(sample: Sample) -> None:
    made = sample("startup")
    controls = list_controls(made.needs, made.catalog, PlanProvenance())
    waiting = tuple(replace(control, status="later", checks=()) for control in controls)
    line = build_regulation_line(made.catalog.regulations["soc2"], waiting)
    assert (
        line.proof == f"archwright explain plan.json {find_first(waiting, 'soc2')}"
        and "each demand is a task of the organisation" in line.why
    )
    assert line.choice.endswith("11 by your own process")


# --- scale


def test_machines_now_at_the_end_and_at_most(sample: Sample) -> None:
    scale = by_id(sample("clinic"))["scale"]
    line = next(line for line in scale.lines if line.topic.startswith("letters: bought"))
    assert line.choice == "8x-node: 2 on average at first, 3 in the last month, 4 at most"
    assert "60 %" in line.why and "4 engines in total, 32 requests at once each" in line.why
    assert 'pool="letters"' in line.proof
    other = next(line for line in scale.lines if line.topic.startswith("xray"))
    assert other.proof == "archwright explain plan.json xray"


def test_work_with_an_end_is_told_in_machine_hours(sample: Sample) -> None:
    made = sample("startup")
    tone = next(fleet for fleet in made.fleets if fleet.workloads == ("tone",))
    brief = tone._replace(machines=tuple(0.01 for _ in tone.machines))
    scale = by_id(made._replace(fleets=(brief,)))["scale"]
    assert scale.lines[0].choice == "4 x 8x-node while the job runs: 7.3 hours in the first month, 7.3 in the last"
    assert scale.lines[0].proof == "archwright explain plan.json tone"


def test_machines_started_for_a_run_may_be_none(sample: Sample) -> None:
    made = sample("startup")
    for pool in ("tone", "support-chat-refresh"):
        once = Purchase(pool=pool, machine="8x-node", kind="spot", machines=0.01, peak=1)
        assert choices_of(by_id(with_option(made, purchases=(once,)))["scale"], f"{pool}: range") == ["0 to 1 machine"]


def test_each_site_has_its_own_spare_and_each_place_its_own_pool(sample: Sample) -> None:
    made = sample("manufacturer")
    one = next(fleet for fleet in made.fleets if fleet.workloads == ("downtime",))
    plants = tuple(
        one._replace(where=Location("on-premises", "on-premises", f"{code} plants", code), peak=peak, busy=0.001)
        for code, peak in (("FR", 10), ("US", 10), ("CN", 8))
    )
    pool = made.option.pools[0] if made.option is not None else None
    assert pool is not None
    pools = tuple(
        replace(pool, name=f"downtime-{code}", workloads=("downtime",), region=code) for code in ("FR", "US", "CN")
    )
    scale = by_id(with_option(made, pools=pools)._replace(fleets=plants))["scale"]
    assert [code in line.proof for code, line in zip(("FR", "US", "CN"), scale.lines, strict=False)] == [True] * 3
    assert "under 1 %" in scale.lines[0].why
    lost = find_line(scale, "downtime: loss of a machine")
    assert lost.choice == "1 + 1 machines at each of 14 sites" and "50 %" in lost.why


def test_the_range_of_an_autoscaler_follows_from_what_is_bought(sample: Sample) -> None:
    for name, ranges in {"clinic": [], "startup": ["1 to 4 machines"], "manufacturer": ["2 to 4 machines"]}.items():
        assert choices_of(by_id(sample(name))["scale"], ": range") == ranges
    assert build_template_values(sample("clinic"))["span"] == "4 machines on average in the first month, 6 in the last"
    made = sample("startup", choice=("cloud", "gcp", "us-central1", "commit-1y"))
    assert made.option is not None and "committed" in derive_traits(made)
    fixed = with_option(made, purchases=made.option.purchases[:1])
    assert choices_of(by_id(fixed)["scale"], ": range") == [], "every machine is there anyway"


def test_a_lost_machine_and_the_spares_for_it(sample: Sample) -> None:
    made = sample("clinic")
    line = find_line(by_id(made)["scale"], "letters: loss of a machine")
    assert line.choice == "3 + 1 machines", "one spare for three, each up 0.995 of the time, holds more than 0.999"
    assert "75 %" in line.why and "at least 29.1 requests/s, 1.33 times" in line.why, "6 x 1.3^(59/12) x 4/3"
    alone = made._replace(fleets=tuple(fleet._replace(peak=1) for fleet in made.fleets))
    single = find_line(by_id(alone)["scale"], "letters: loss of a machine")
    assert single.choice == "1 + 0 machines" and "0 %" in single.why
    assert choices_of(by_id(made._replace(fleets=()))["scale"], "loss of a machine") == []
    without_requests = sample("startup", lambda d: d["workloads"][2].update(slo={"availability": 0.9}))
    line = find_line(by_id(without_requests)["scale"], "index: loss of a machine")
    assert "requests/s" not in line.why and line.choice == "4 + 0 machines"


def test_the_tightest_limit_breaks_first(sample: Sample) -> None:
    made = sample("clinic")
    assert made.option is not None
    ratios = [one.times.value for one in compute_headrooms(made, made.option)]
    assert ratios == sorted(ratios) == pytest.approx([30 / 25, 900 / 500, 40 / 22, 42 / 16])
    scale = by_id(made)["scale"]
    assert scale.summary.startswith("At 1.2 times this plan, the budget for a month is reached first")
    first = find_line(scale, "First limit reached")
    assert ", which holds with " in first.choice and first.estimate is not None
    assert first.estimate.low == pytest.approx(1.2 / 1.3) and first.estimate.unit == "times"
    assert "holds with" not in find_line(scale, "Second limit reached").choice


def test_without_a_limit_or_with_an_amount_that_may_be_nothing_there_is_no_headroom(sample: Sample) -> None:
    scale = by_id(sample("startup", lambda d: d["budget"].pop("per_month")))["scale"]
    assert "no limit" in scale.summary and choices_of(scale, "limit reached") == []
    free = Estimate(value=5.0, low=0.0, high=9.0, unit="USD/month")
    made = with_option(sample("startup"), cost_per_month=free)
    assert made.option is not None and compute_headrooms(made, made.option) == []


def test_pools_speak_where_no_fleet_is_known(sample: Sample) -> None:
    made = sample("startup")._replace(fleets=())
    assert by_id(made)["scale"].lines[0].choice == "4 engines, on 8x-node in us-central1"
    assert build_template_values(made)["span"] == "4 machines throughout"


# --- monitoring


def test_every_service_level_has_its_query(sample: Sample) -> None:
    monitoring = by_id(sample("clinic"))["monitoring"]
    found = {line.topic: line for line in monitoring.lines}
    ttft = found["letters: TTFT"]
    assert ttft.choice == "p95 at most 3 s over an hour" and "engine:ttft" in ttft.why
    assert ttft.proof.startswith("histogram_quantile(0.95") and 'workload="letters"' in ttft.proof
    assert "xray: latency" in found and "xray: TTFT" not in found
    assert "request received to first content" in ttft.why
    up = found["letters: availability"]
    assert up.choice == "99.9 % of requests answered, 43.2 min of outage in 30 days"
    assert up.proof.count("> 0.0144") == 2
    assert "4 service levels" not in monitoring.summary and "5 service levels" in monitoring.summary


def test_what_a_provider_runs_is_not_predicted(sample: Sample) -> None:
    made = sample("startup", choice=HOSTED)
    found = by_id(made)
    levels = [line for line in found["monitoring"].lines if line.topic.startswith("support-chat")]
    assert len(levels) == 3 and all("in front of the provider" in line.why for line in levels)
    proofs = {line.topic: line.proof for section in found.values() for line in section.lines}
    assert proofs["API gateway"] == proofs["Access control"] == proofs["Audit trail"] == ""


def test_series_are_those_the_plan_needs(sample: Sample) -> None:
    def series(name: str) -> str:
        return find_line(by_id(sample(name))["monitoring"], "Series").choice

    assert "archwright_memory_bytes" in series("desk") and "archwright_memory_bytes" not in series("clinic")
    assert "archwright_training_seconds" in series("startup") and "training" not in series("clinic")


def test_needs_that_serve_nothing_watch_no_requests(sample: Sample) -> None:
    def only_tuning(document: dict[str, Any]) -> None:
        document["workloads"] = [w for w in document["workloads"] if w["kind"] == "finetune"]
        document["workloads"][0]["base"] = "Llama-3.1-8B-Instruct"

    line = find_line(by_id(sample("startup", only_tuning, choice=None))["monitoring"], "Series")
    assert line.proof == "archwright runs list" and "ttft" not in line.choice
    bare = sample("startup", lambda d: d.update(workloads=[{**d["workloads"][2]}]), choice=None)
    assert "none" in find_line(by_id(bare)["monitoring"], "Series").choice


def test_people_are_reported_where_they_are_known(sample: Sample) -> None:
    def people(change: Callable[[dict[str, Any]], None] | None = None) -> str:
        return build_template_values(sample("desk", change, choice=None))["people"]

    assert people() == ", one person"
    assert people(lambda d: d["organisation"].update(employees=61000)) == ", 61,000 people"
    assert people(lambda d: d["organisation"].pop("employees")) == ""


# What an option states that a row may show as its figure.
FIGURES = ("cost_per_month", "total_cost", "capex", "power_kw", "energy_kwh_per_month", "carbon_kg_per_month")
PRODUCTS = re.compile(
    r"pytorch|tensorflow|horovod|kubernetes|slurm|grafana|litellm|onnx|iceberg|postgres|mlflow|sagemaker|triton|"
    r"cloudwatch|\bray\b|\bdaft\b|pgvector|(?<!--)prometheus",
    re.IGNORECASE,
)


def test_no_product_is_named_in_the_code_of_the_sections() -> None:
    """Products are rows; the one exception is the name of an option of a verb."""
    folder = Path(outline.__file__).parent
    names = ("security", "scaling", "monitoring", "outline", "guidance", "plan_traits")
    for path in (*(folder / f"{name}.py" for name in names), folder.parent / "evidence" / "controls.py"):
        assert PRODUCTS.findall(path.read_text(encoding="utf-8")) == [], path.name


# --- the four examples as the planner plans them


@pytest.mark.parametrize("name", CHOICES)
def test_the_sections_of_a_real_plan_stand_in_order(name: str, plan_of: Callable[..., Plan]) -> None:
    sections = plan_of(name).sections
    assert [section.id for section in sections] == ORDER and all(section.lines for section in sections)


def test_a_source_bears_its_date_unless_it_is_the_plan_itself(sample: Sample) -> None:
    found = by_id(sample("clinic"))
    first = {line.topic: line.source for line in found["stages"].lines}
    assert first["1 Needs assessment"] == "the needs file"
    sources = {line.topic: line.source for line in found["stack"].lines}
    assert sources["Metrics"].endswith(", 2026 (medium)") and sources["Model files"].endswith(", 2026-11-24")
