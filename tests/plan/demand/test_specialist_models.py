"""Models for embedding, reranking, speech, parsing and images: language, context, licence, then quality."""

from __future__ import annotations

import pytest

from archwright.catalog.load import load_catalog
from archwright.contract.needs import RequestRate, TokenLength, Traffic, Workload, WorkloadKind
from archwright.contract.record import replace
from archwright.plan.demand.forecast import forecast_demand
from archwright.plan.demand.image_input import (
    ASSUMED_PIXELS,
    add_image_tokens,
    add_image_work,
    count_image_tokens,
    keep_image_models,
)
from archwright.plan.demand.model_selection import ModelCandidates, select_open_models
from archwright.plan.demand.specialist_models import list_evidence, select_specialist_models

CATALOG = load_catalog()
RATE = RequestRate(mean=1, peak=2)


def workload(kind: WorkloadKind, tokens: float = 300, **fields: object) -> Workload:
    lengths = TokenLength(mean=tokens / 2, p95=tokens)
    traffic = Traffic(requests_per_second=RATE, input_tokens=lengths, audio_s=30, documents=10, pages_per_document=2)
    return replace(Workload(name="w", kind=kind, traffic=traffic), **fields)


@pytest.mark.parametrize("kind", sorted(CATALOG.specialist_rules))
@pytest.mark.parametrize("language", ["de", "pl", "zh"])
def test_a_model_of_other_languages_is_never_chosen(kind: WorkloadKind, language: str) -> None:
    found = select_specialist_models(workload(kind, languages=(language,)), CATALOG)
    assert found.models
    assert all(language in model.languages for model in (*found.models, *found.better))
    english = [name for name, row in CATALOG.specialist_models(kind).items() if row.languages == ("en",)]
    assert english, "the table has models of English alone"
    asked = select_specialist_models(workload(kind, model=english[0], languages=(language,)), CATALOG)
    assert asked.models == ()
    assert [miss.constraint for miss in asked.misses] == ["w.languages"]


def test_the_score_is_that_of_the_languages() -> None:
    """For English the English tasks decide; the best multilingual embedder of its size is another one."""
    english = select_specialist_models(workload("embedding", languages=("en",)), CATALOG)
    german = select_specialist_models(workload("embedding", languages=("de", "en")), CATALOG)
    assert [model.id for model in english.models] == ["Qwen3-Embedding-0.6B"]
    assert [model.id for model in german.models] == ["gte-multilingual-base"]
    assert all(model.parameters > 1e9 for model in german.better)
    best = max(row.quality.get("mteb_en_v2_retrieval", 0) for row in CATALOG.embedders.values() if row.parameters < 1e9)
    assert english.models[0].quality["mteb_en_v2_retrieval"] >= best - 0.02
    (first, second) = list_evidence(workload("embedding", languages=("de",)), "bge-m3", CATALOG)
    assert {first.benchmark, second.benchmark} == {"miracl_hard", "belebele_retrieval"}
    assert first.source


def test_texts_beyond_the_context_exclude_a_model() -> None:
    def choose(tokens: float, **fields: object) -> ModelCandidates:
        return select_specialist_models(workload("embedding", tokens, **fields, languages=("de",)), CATALOG)

    assert [model.id for model in choose(120, model="multilingual-e5-large").models] == ["multilingual-e5-large"]
    assert [miss.constraint for miss in choose(600, model="multilingual-e5-large").misses] == ["w.traffic"]
    assert min(model.context_tokens for model in (*choose(4000).models, *choose(4000).better)) >= 4000
    assert [miss.constraint for miss in choose(100_000).misses] == ["w.traffic"]
    # A long document is split into chunks, so it needs no long context.
    split = Traffic(documents=10, tokens_per_document=20_000)
    assert choose(1, model="multilingual-e5-large", traffic=split).misses == ()


def test_a_licence_excludes_a_model() -> None:
    free = select_specialist_models(
        workload("embedding", model="jina-embeddings-v3", licence="any", languages=("de",)), CATALOG
    )
    assert [model.id for model in free.models] == ["jina-embeddings-v3"]
    paid = workload("embedding", model="jina-embeddings-v3", licence="commercial", languages=("de",))
    assert [miss.constraint for miss in select_specialist_models(paid, CATALOG).misses] == ["w.licence"]


def test_speech_is_chosen_by_the_error_in_the_languages() -> None:
    found = select_specialist_models(workload("speech-to-text", languages=("de",)), CATALOG)
    errors = [model.quality["open_asr_de_wer"] for model in found.models]
    known = [row for row in CATALOG.speech_models.values() if "de" in row.languages and row.parameters <= 3e9]
    best = min(row.quality.get("open_asr_de_wer", 1) for row in known)
    assert max(errors) <= best + 0.01
    assert "Voxtral-Small-24B-2507" in {model.id for model in found.better} or best <= 0.0401
    polish = select_specialist_models(workload("speech-to-text", languages=("pl",)), CATALOG)
    assert "in five other languages" in polish.notes[0]
    # A model without an error in German is not compared by its English alone.
    both = select_specialist_models(workload("speech-to-text", languages=("en", "de")), CATALOG)
    assert all({"open_asr_en_wer", "open_asr_de_wer"} <= model.quality.keys() for model in both.models)
    # No speech model states Irish: the other language decides, and the plan says so.
    irish = select_specialist_models(workload("speech-to-text", languages=("en", "ga")), CATALOG)
    assert irish.models
    assert any("supports ga" in note for note in irish.notes)
    alone = select_specialist_models(workload("speech-to-text", languages=("ga",)), CATALOG)
    assert [miss.constraint for miss in alone.misses] == ["w.languages"]


def test_a_load_without_its_size_is_no_demand() -> None:
    kinds: tuple[WorkloadKind, ...] = ("rerank", "speech-to-text")
    for kind in kinds:
        asked = workload(kind)
        assert forecast_demand(asked, 12) is not None
        assert forecast_demand(replace(asked, traffic=Traffic(requests_per_second=RATE)), 12) is None


def test_a_text_model_never_serves_images() -> None:
    seen = workload("vision-language")
    traffic = replace(seen.traffic or Traffic(), image_pixels=2e6, output_tokens=TokenLength(mean=100, p95=200))
    demand = forecast_demand(replace(seen, traffic=traffic), 12)
    assert demand is not None
    kept = keep_image_models(select_open_models(demand, CATALOG), demand, CATALOG).models
    assert kept
    assert all(CATALOG.image_model("", model.id) is not None for model in kept)
    text = (CATALOG.models["Llama-3.1-8B-Instruct"],)
    found = keep_image_models(ModelCandidates(text), demand, CATALOG)
    assert (found.models, [miss.constraint for miss in found.misses]) == ((), ["w.modalities"])
    # 2 megapixels at 32 x 32 pixels a token; the encoder's arithmetic comes on top for sizing only.
    assert count_image_tokens(demand.workload, CATALOG, "Qwen3.5-27B") == pytest.approx(2e6 / 1024)
    longer = add_image_tokens(demand, CATALOG, "Qwen3.5-27B")
    assert longer.input_tokens.mean == pytest.approx(demand.input_tokens.mean + 2e6 / 1024)
    worked = add_image_work(demand, CATALOG, CATALOG.models["Qwen3.5-35B-A3B"])
    assert worked.input_tokens.mean > longer.input_tokens.mean
    plain = replace(seen, kind="chat", traffic=traffic)
    assert count_image_tokens(plain, CATALOG, "Qwen3.5-27B") == 0
    pictured = replace(plain, modalities=("image",), traffic=None)
    assert count_image_tokens(pictured, CATALOG, "Qwen3.5-27B") == pytest.approx(ASSUMED_PIXELS / 1024)


def test_every_row_of_images_names_a_model() -> None:
    assert CATALOG.image_models.keys() <= {row.id for row in CATALOG.hosted} | CATALOG.models.keys()
    same = next(row for row in CATALOG.hosted if row.scores_of and row.scores_of in CATALOG.image_models)
    assert CATALOG.image_model(same.provider, same.id) is not None
    scored = {row.model for row in CATALOG.specialist_scores}
    assert scored <= {name for kind in CATALOG.specialist_rules for name in CATALOG.specialist_models(kind)}
