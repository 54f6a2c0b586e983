"""Scores as evidence: measured with a band, else estimated; licences of the sources; the estimates' coverage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from archwright.catalog.catalog import Catalog
from archwright.catalog.layers.model_scores import ModelScores
from archwright.catalog.load import load_catalog
from archwright.catalog.tables.csv_table import DATA, read_rows
from archwright.catalog.tables.records import QualityScore
from archwright.contract.decision import ScoreEvidence
from archwright.contract.record import replace

from ..samples import load_own

CATALOG = load_catalog()
# Works without an open licence: a user may read them by a refresh, the package must not hold them.
FACTS_ONLY = ("livebench/", "lmarena/arena-catalog", "chenjy16", "crispstrobe", "artificialanalysis")
# Hosted models without any score on 2026-11-28: released after the newest source of scores, or no text models.
UNSCORED = 35


def evidence_of(table: str, model: str, catalog: Catalog = CATALOG) -> dict[str, ScoreEvidence]:
    return dict(catalog.model_scores.evidence(table, model))


def test_every_score_names_its_source_and_licence_and_lies_in_its_band() -> None:
    known = {(row.table, row.model, row.benchmark) for row in CATALOG.scores}
    assert len(known) == len(CATALOG.scores)
    for row in CATALOG.scores:
        assert row.source and row.as_of and row.licence and row.confidence != "recalled", row
        assert row.low is not None and row.high is not None and row.low <= row.score <= row.high, row
        assert row.benchmark in CATALOG.benchmark_table, row
        assert not any(work in row.source.lower() for work in FACTS_ONLY), row


def test_bands_are_ordered_and_shares_stay_below_one() -> None:
    models = [("open", name) for name in CATALOG.models] + [("hosted", row.id) for row in CATALOG.shipped_hosted]
    for key in models:
        for one in evidence_of(*key).values():
            assert one.low <= one.value <= one.high and one.scores_used > 0 and one.source, (key, one)
            assert one.axis and (one.unit != "share" or 0 <= one.low <= one.high <= 1), (key, one)


def test_an_estimate_holds_the_measured_score_of_nine_cells_in_ten(tmp_path: Path) -> None:
    """Without the shipped score the estimate answers; it never saw the score."""
    folder = tmp_path / "data"
    shutil.copytree(DATA, folder)
    lines = (folder / "llm_quality.csv").read_text(encoding="utf-8").splitlines()
    (folder / "llm_quality.csv").write_text(lines[0] + "\n", encoding="utf-8")
    emptied, inside = Catalog(folder), []
    for row in CATALOG.scores:
        found = emptied.model_scores.evidence(row.table, row.model).get(row.benchmark)
        if found is not None:
            assert found.estimated and found.scores_used >= 3
            inside.append(found.low <= row.score <= found.high)
    assert len(inside) > 500 and 0.87 <= sum(inside) / len(inside) <= 0.97


def test_an_estimate_depends_on_measured_neighbours() -> None:
    """Estimates tell weak models from strong ones; a measured score wins over the estimate."""
    weak, strong = (evidence_of("open", name)["gpqa"] for name in ("Qwen2.5-1.5B-Instruct", "Qwen3.5-397B-A17B"))
    assert weak.high < strong.low
    rows = [row.cells for row in read_rows(DATA, "score_estimates.csv")]
    both = [row for row in rows if not evidence_of(row["table"], row["model"])[row["benchmark"]].estimated]
    assert len(both) > 500


def test_current_hosted_models_have_evidence() -> None:
    first_hand = [row for row in CATALOG.hosted if not row.scores_of]
    empty = [row.id for row in first_hand if not CATALOG.hosted_evidence(row.provider, row.id)]
    assert len(empty) <= UNSCORED and not {"gpt-5.5", "claude-opus-5", "gemini-3.5-flash", "grok-4.5"} & set(empty)
    for name in ("gpt-5.5", "claude-opus-4-8"):
        assert CATALOG.hosted_evidence("openai" if name[0] == "g" else "anthropic", name)["mmlu_pro"].low > 0.8


def test_a_platform_sells_the_scores_of_the_model_at_the_price_of_the_place() -> None:
    rows = {(row.provider, row.id): row for row in CATALOG.hosted}
    here, anywhere = rows["azure-openai", "eu/gpt-5.4"], rows["azure-openai", "gpt-5.4"]
    assert CATALOG.hosted_places("azure-openai", here.id) == ("EU",)
    assert CATALOG.hosted_places("azure-openai", anywhere.id) is None
    assert here.input_usd_per_token == pytest.approx(1.1 * anywhere.input_usd_per_token)
    assert CATALOG.hosted_evidence("azure-openai", here.id) == CATALOG.hosted_evidence("openai", "gpt-5.4")
    open_model = CATALOG.hosted_evidence("bedrock", "openai.gpt-oss-120b-1:0")
    assert open_model == CATALOG.open_evidence("gpt-oss-120b") and open_model
    known = {*CATALOG.models, *(row.id for row in CATALOG.hosted)}
    assert all(row.scores_of in known for row in CATALOG.hosted if row.scores_of)
    assert all(place in CATALOG.places for row in CATALOG.hosted for place in row.places)


def test_several_rows_are_one_piece_of_evidence_within_their_range() -> None:
    first = QualityScore(
        model="Own-8B",
        benchmark="gpqa",
        score=0.5,
        method="",
        reported_by="maker",
        original_source="",
        source="a",
        as_of="2026-11",
        independent="no",
    )
    rows = [first, replace(first, score=0.4, reported_by="other", source="b", independent="yes")]
    both = ModelScores(CATALOG.benchmark_table, rows, {}).evidence("open", "Own-8B")["gpqa"]
    assert (both.value, both.low, both.high, both.independent, both.scores_used) == (0.4, 0.4, 0.5, "yes", 2)
    alone = ModelScores(CATALOG.benchmark_table, rows[:1], {}).evidence("open", "Own-8B")["gpqa"]
    spread = CATALOG.benchmark_table["gpqa"].spread
    assert spread and (alone.low, alone.high) == pytest.approx((0.5 - spread, 0.5 + spread))


def test_the_users_own_score_wins(tmp_path: Path) -> None:
    own = {"score": 0.71, "low": 0.69, "high": 0.73, "reason": "own run of 2026-11", "until": "2027-12-31"}
    catalog = load_own(tmp_path, {"scores": {"hosted gpt-5 gpqa": own, "open Qwen3-32B livecodebench": own}})
    for found in (
        catalog.hosted_evidence("openai", "gpt-5")["gpqa"],
        catalog.open_evidence("Qwen3-32B")["livecodebench"],
    ):
        assert (found.value, found.low, found.high, found.source) == (0.71, 0.69, 0.73, "own run of 2026-11")
