"""A plan of all kinds without chat, from the needs to the document: what it chooses, states and survives."""

from __future__ import annotations

import msgspec
import pytest

from archwright.catalog.catalog import Catalog
from archwright.contract.listener import ListenerSettings
from archwright.contract.needs import Needs, NeedsSource
from archwright.contract.plan import Plan
from archwright.deploy.single_machine import ExternalEndpoints, build_bundle
from archwright.errors import PlanError
from archwright.needs.reader import parse_needs
from archwright.plan.explain.diff import diff_plans
from archwright.plan.explain.explanation import explain_plan
from archwright.plan.planner import make_plan
from archwright.report.document_builder import build_document
from archwright.report.html import render_html
from archwright.serving.settings.config import GatewayConfig

from .conftest import NOW

LISTEN = ListenerSettings(port=8000)
NEEDS = """
version: 1
organisation: {name: Sprachdienst, employees: 300, country: DE}
goals: [{text: search and transcripts}]
workloads:
  - name: index
    kind: embedding
    traffic: {documents: 10000, tokens_per_document: 2000, refresh: month,
      requests_per_second: {mean: 1, peak: 4}, input_tokens: {mean: 40, p95: 120}}
    data: [texts]
  - name: rank
    kind: rerank
    traffic: {requests_per_second: {mean: 1, peak: 4}, input_tokens: {mean: 10000, p95: 12000}}
    data: [texts]
  - name: calls
    kind: speech-to-text
    traffic: {requests_per_second: {mean: PEAK, peak: PEAK}, audio_s: 120}
    slo: {latency_p95_s: 60}
    data: [texts]
  - name: claims
    kind: vision-language
    quality: {mmlu_pro: 0.5}
    traffic: {requests_per_second: {mean: 0.2, peak: 1}, input_tokens: {mean: 300, p95: 600},
      output_tokens: {mean: 100, p95: 200}, image_pixels: 1.0e+6}
    data: [texts]
  - name: archive
    kind: document-parsing
    traffic: {documents: 2000, pages_per_document: 5, refresh: month}
    data: [texts]
data:
  - {name: texts, size_gib: 10, residency: [EEA], languages: [de, pl]}
placement: {allow: [cloud, hosted-api], clouds: [gcp, mistral]}
budget: {currency: EUR, capex: 0, horizon_months: 24}
"""


def read(peak: float, catalog: Catalog) -> tuple[Needs, NeedsSource]:
    return parse_needs(NEEDS.replace("PEAK", str(peak)).encode(), "needs.yaml", catalog)


@pytest.fixture(scope="module")
def plan(catalog: Catalog) -> Plan:
    return make_plan(*read(0.5, catalog), catalog, None, NOW)


def test_every_kind_has_a_model_of_its_languages(plan: Plan, catalog: Catalog) -> None:
    option = plan.chosen_option
    assert option is not None
    assert option.models.keys() == {"index", "rank", "calls", "claims", "archive"}
    for name in ("index", "rank", "calls", "archive"):
        model = catalog.find_specialist(option.models[name])
        assert model is not None and {"de", "pl"} <= set(model.languages), name
    assert catalog.image_model("", option.models["claims"]) is not None
    assert {pool.name: pool.kind for pool in (*plan.pools, *plan.upstreams)} == {
        "index": "text", "rank": "text", "calls": "predict", "claims": "text",
    }  # fmt: skip
    assert [pool.name for pool in plan.pools if pool.rerank] == ["rank"]
    evidence = {workload.name: workload.evidence for workload in plan.workloads}
    assert [score.benchmark for score in evidence["calls"]] == ["open_asr_de_wer"]
    assert all(evidence[name] for name in ("index", "rank", "archive"))


def test_notes_on_a_model_do_not_contradict_the_choice(plan: Plan) -> None:
    """A note that names models "by cost among" names the chosen one; another explains a larger model."""
    told = 0
    for option in plan.options:
        for name, model in option.models.items():
            own = [note for note in option.notes if note.startswith(f"{name}: ")]
            larger = any(note.startswith(f"{name}: {model} in place of a small model") for note in own)
            for note in own:
                assert "by cost among" not in note or model in note, (model, note)
                if note.startswith(f"{name}: small "):
                    assert (model in note) != larger, (model, own)
                    told += 1
    assert told, "a workload with small and larger models"


def test_other_parsers_of_the_licence_are_named_with_their_price(plan: Plan) -> None:
    """Found: 69 machines for one parser, and no word of another at a quarter of the price."""
    option = next(one for one in plan.options if one.placement == "cloud" and one.feasible)
    (note,) = (one for one in option.notes if "by parser" in one)
    assert note.startswith(f"archive: machines in USD a month by parser: {option.models['archive']} ")
    assert "PaddleOCR-VL" in note and "MinerU" not in note, "without German and Polish"


def test_the_plan_states_what_it_does_not_start(plan: Plan) -> None:
    option = plan.chosen_option
    assert option is not None
    for name in ("calls", "archive"):
        (note,) = [note for note in option.notes if note.startswith(f"{option.models[name]} is planned, not started")]
        assert "http" in note.lower() or "serve" in note
    hosted = next(one for one in plan.options if one.placement == "hosted-api")
    assert any("no hosted price for" in note and "speech-to-text" in note for note in hosted.notes)
    assert any("hours of audio an hour" in text for text in plan.assumptions)
    assert any("an image counts as" in text for text in plan.assumptions)
    with pytest.raises(PlanError, match="cannot run on this machine alone"):
        build_bundle(plan, LISTEN, "sqlite://")
    reached = {name: ExternalEndpoints((f"http://127.0.0.1:9/{name}",)) for name in ("index", "rank", "claims")}
    gateway = msgspec.convert(build_bundle(plan, LISTEN, "sqlite://", reached).processes[-1].config, GatewayConfig)
    tasks = {one.workload: (one.embeddings, one.rerank) for one in gateway.endpoints}
    assert tasks == {"index": (True, False), "rank": (False, True), "claims": (False, False)}


def test_more_audio_costs_more_and_every_view_of_the_plan_works(plan: Plan, catalog: Catalog) -> None:
    found = {one.id: one for one in plan.predictions}
    assert found["calls.latency_s.p95"].estimate.value <= 60
    bases = {basis.id for basis in plan.bases}
    assert all(one.estimate.basis in bases for one in plan.predictions)
    more = make_plan(*read(50, catalog), catalog, None, NOW)
    assert more.chosen_option is not None and plan.chosen_option is not None
    assert more.chosen_option.total_cost is not None and plan.chosen_option.total_cost is not None
    assert more.chosen_option.total_cost.value > plan.chosen_option.total_cost.value
    for name in ("index", "rank", "calls", "claims", "archive"):
        assert plan.chosen_option.models[name] in explain_plan(plan, name)
    assert diff_plans(plan, more) is not None
    assert b"parakeet" in render_html(build_document(plan, catalog))
