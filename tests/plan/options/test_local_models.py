"""The model of this machine: by quality, among what fits memory, disk, limits and the home."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.tools.work import counted_calls

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.csv_table import DATA
from archwright.contract.estimate import within_factor
from archwright.contract.plan import MachineFacts, Plan
from archwright.contract.record import replace
from archwright.contract.stored_model import StoredModel
from archwright.needs.reader import parse_needs
from archwright.needs.template import read_template
from archwright.plan.decision.selection import Concessions
from archwright.plan.demand.model_quality import BENCHMARKS, rate_models
from archwright.plan.planner import make_plan

from ..conftest import MACHINE, NOW

LAPTOP = replace(
    MACHINE,
    cores_usable=8,
    memory_bytes=16 << 30,
    memory_bandwidth_bytes_per_s=within_factor(14e9, 1.1, "bytes/s"),
    matmul_flops_per_s=within_factor(90e9, 1.1, "FLOP/s"),
    disk_free_bytes=200 << 30,
)
SMALL = "SmolLM2-135M-Instruct"


def plan_desk(
    machine: MachineFacts,
    *,
    download: bool,
    held: tuple[str, ...] = (),
    change: tuple[str, str] = ("", ""),
    stored: tuple[StoredModel, ...] = (),
) -> Plan:
    """The plan of the built-in assistant; `held`: models whose wheel is in the home."""
    catalog = Catalog(DATA, stored=stored)
    catalog.held = frozenset([*(catalog.artefacts[name].sha256 for name in held), *(one.sha256 for one in stored)])
    text = read_template("desk").replace(*change)
    needs, source = parse_needs(text.encode(), "needs.yaml", catalog)
    chosen = Concessions(best_effort=True, download=download)
    return make_plan(needs, source, catalog, machine, NOW, concessions=chosen)


def misses_of(plan: Plan) -> dict[str, Any]:
    return {miss.constraint: miss.value for miss in plan.options[0].misses}


def test_a_laptop_of_16_gb_gets_a_model_of_4_to_8_billion() -> None:
    plan_desk(LAPTOP, download=False)  # reads the tables
    with counted_calls() as work:
        plan = plan_desk(LAPTOP, download=True)
    assert work.calls < 30_000_000, "2 s on a quiet machine have 10 million"
    (pool,) = plan.pools
    assert pool.artefact is not None and 3.8e9 < Catalog(DATA).models[pool.model].parameters < 8.6e9
    assert pool.default_max_tokens == pool.context_tokens
    notes = " ".join(plan.options[0].notes)
    assert "is the best that fits memory and keeps the limits" in notes and pool.artefact.repository in notes
    assert misses_of(plan) == {} and plan.proposals == ()


@pytest.mark.nightly
def test_without_a_download_the_home_serves_and_the_plan_names_the_better_model() -> None:
    plan = plan_desk(LAPTOP, download=False, held=(SMALL,))
    (pool,), (proposal,) = plan.pools, plan.proposals
    assert (pool.model, pool.quantisation) == (SMALL, "Q4_1")
    wanted = plan_desk(LAPTOP, download=True, held=(SMALL,)).pools[0].artefact
    assert proposal.artefact == wanted and proposal.instead == f"{SMALL} Q4_1" and "scores" in proposal.reason


def slowed(machine: MachineFacts, share: float) -> MachineFacts:
    """The probe of a machine whose other programs leave `share` of the processor."""
    reads, multiplies = machine.memory_bandwidth_bytes_per_s, machine.matmul_flops_per_s
    return replace(
        machine,
        memory_bandwidth_bytes_per_s=reads.scaled(share),
        matmul_flops_per_s=multiplies.scaled(share),
        quiet_bandwidth_bytes_per_s=reads,
        quiet_matmul_flops_per_s=multiplies,
        busy_share=1 - share,
    )


@pytest.mark.nightly
def test_a_busy_moment_changes_no_choice_but_the_predictions() -> None:
    quiet, *busy = (plan_desk(slowed(LAPTOP, share), download=False, held=(SMALL,)) for share in (1.0, 0.6, 0.2))
    assert quiet.proposals[0].artefact.model == "Qwen3-8B"
    said = "other programs used 80 % of the processor during the probe"
    for plan in busy:
        assert plan.proposals == quiet.proposals and plan.pools[0].model == quiet.pools[0].model
        first, before = (next(p for p in one.predictions if p.metric == "ttft_s") for one in (plan, quiet))
        assert first.estimate.value > before.estimate.value
    assert said in " ".join(busy[-1].options[0].notes) and said not in " ".join(quiet.options[0].notes)


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("cores", "gib", "flops", "model", "said"),
    [
        (32, 16, 9e10, "Qwen3-14B", "better: gpt-oss-20b mxfp4 (quality 0.786 from 6 of 6 scores), which needs 1"),
        (2, 24, 9e10, "Qwen3-1.7B", "which is too slow: assistant.ttft_p95_s"),
        (2, 64, 14e9, SMALL, "which is too slow: assistant.ttft_p95_s"),
    ],
)
def test_the_limit_that_decides_is_named(cores: int, gib: int, flops: float, model: str, said: str) -> None:
    rate = within_factor(flops, 1.1, "FLOP/s")
    machine = replace(LAPTOP, cores_usable=cores, memory_bytes=gib << 30, matmul_flops_per_s=rate)
    plan = plan_desk(machine, download=True)
    assert (plan.pools[0].model, misses_of(plan)) == (model, {})
    assert said in plan.options[0].notes[0]


def test_a_file_of_the_home_stays_unless_a_better_model_fits() -> None:
    shape = {"parameters": 8190735360, "active_parameters": 8190735360, "layers": 36, "hidden": 4096, "ffn": 12288}
    shape |= {"heads": 32, "kv_heads": 8, "head_width": 128, "vocabulary": 151936, "context_tokens": 40960}
    record = {"name": "mine", "model": "Qwen3-8B", "form": "gguf", "task": "generate", "sha256": "c" * 64}
    record |= {"quantisation": "Q4_K_M", "licence": "apache-2.0", "source": "file"}
    stored = msgspec.convert(
        {**record, "size_bytes": 5_030_000_000, "added_at": 0.0, "architecture": {**shape, "type": "qwen3"}},
        StoredModel,
    )
    wanted, kept = (plan_desk(LAPTOP, download=True, stored=one).pools[0] for one in ((), (stored,)))
    assert (wanted.model, wanted.quantisation, kept.quantisation) == ("Qwen3-8B", "Q5_K_M", "Q4_K_M")
    assert kept.artefact is not None and kept.artefact.sha256 == "c" * 64


def test_an_empty_home_and_a_full_disk_leave_no_model() -> None:
    plan = plan_desk(LAPTOP, download=False)
    assert plan.chosen is None and plan.pools == () and misses_of(plan) == {"assistant.model": "no file in the home"}
    assert [one.instead for one in plan.proposals] == [""]
    full = plan_desk(replace(LAPTOP, disk_free_bytes=10 << 20), download=True)
    assert full.chosen is None and full.proposals == ()


def test_a_model_that_is_named_stays_and_an_unfit_licence_is_refused() -> None:
    named = plan_desk(LAPTOP, download=False, change=("    kind: chat", "    model: Qwen3-1.7B\n    kind: chat"))
    assert named.pools[0].model == "Qwen3-1.7B" and named.proposals == ()
    research = ("    kind: chat", "    model: Qwen2.5-3B-Instruct\n    kind: chat")
    assert "assistant.licence" in misses_of(plan_desk(LAPTOP, download=False, change=research))


def test_a_name_of_the_home_picks_its_file() -> None:
    sizes = {"parameters": 134515008, "active_parameters": 134515008, "layers": 30, "hidden": 576, "ffn": 1536}
    shape = {**sizes, "heads": 9, "kv_heads": 3, "head_width": 64, "vocabulary": 49152, "context_tokens": 8192}
    record = {"name": f"{SMALL}-Q8_0", "model": SMALL, "form": "gguf", "task": "generate", "sha256": "a" * 64}
    record |= {"quantisation": "Q8_0", "licence": "mit", "source": "file"}
    whole = {**record, "size_bytes": 10**8, "added_at": 0.0, "architecture": {**shape, "type": "llama"}}
    stored = msgspec.convert(whole, StoredModel)
    other = replace(stored, name="mine", sha256="b" * 64, quantisation="Q4_K_M")
    catalog = Catalog(DATA, stored=(stored, other))
    catalog.held = frozenset({"a" * 64, "b" * 64})
    for name, quantisation in ((SMALL, "Q8_0"), ("mine", "Q4_K_M")):
        text = read_template("desk").replace("    kind: chat", f"    model: {name}\n    kind: chat")
        needs, source = parse_needs(text.encode(), "needs.yaml", catalog)
        (pool,) = make_plan(needs, source, catalog, LAPTOP, NOW).pools
        assert (pool.model, pool.quantisation) == (SMALL, quantisation)


def test_a_slow_machine_gets_the_fastest_file_with_its_misses() -> None:
    crawling = replace(LAPTOP, matmul_flops_per_s=within_factor(1e9, 1.1, "FLOP/s"))
    plan = plan_desk(crawling, download=True)
    assert plan.pools[0].model == SMALL and "assistant.tpot_p95_s" in misses_of(plan)


def test_quality_ranks_by_known_scores_and_puts_unknown_models_below_their_size() -> None:
    models = Catalog(DATA).models
    rated = rate_models(models.values())
    assert rated["Qwen3-8B"].share > rated["Qwen3-4B"].share > rated["Qwen3-1.7B"].share > rated["Qwen3-0.6B"].share
    unknown = replace(models["Qwen3-8B"], id="own", quality={})
    assert rate_models([*models.values(), unknown])["own"].scores == 0
    alike = [m.id for m in models.values() if 7e9 < m.parameters < 9e9 and rated[m.id].scores >= 3]
    below = rate_models([*models.values(), unknown])["own"].share
    assert len(alike) >= 4 and all(rated[name].share > below for name in alike)
    whole = next(model for model in models.values() if rated[model.id].scores == len(BENCHMARKS))
    assert rated[whole.id].share == pytest.approx(sum(whole.quality[b] for b in BENCHMARKS) / len(BENCHMARKS))
    assert set(rate_models([unknown]).values()) == {(0.0, 0, 0)}
