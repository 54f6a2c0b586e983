"""Plausibility of the shipped facts: each rule comes from an error met in some public table."""

from __future__ import annotations

import re
from typing import get_args

import pytest

from archwright.catalog.load import load_catalog
from archwright.catalog.refresh import plausibility_checks
from archwright.catalog.refresh.fact_view import COUNT_UNIT, list_figures
from archwright.catalog.tables.csv_table import DATA, read_rows
from archwright.contract.lineage import Task
from archwright.contract.metrics import METRIC_BY_QUANTITY
from archwright.home import Home
from archwright.sizing.training.training_flops import DTYPE_BYTES

from ..samples import list_facts

CATALOG = load_catalog()
# A table's own provenance columns; licences.csv states no figure.
DATED = ("as_of", "price_as_of", "spec_as_of", "grid_year")
SOURCED = ("source", "price_source", "grid_source")


FACTS = list_facts(CATALOG)


def test_every_fact_has_a_source_and_a_date_or_is_called_recalled() -> None:
    assert len(FACTS) > 1200
    assert [fact for fact in FACTS if not fact.source] == []
    undated = [fact for fact in FACTS if not fact.as_of or "undated" in fact.as_of]
    assert {fact.confidence for fact in undated} == {"recalled"}


def test_every_source_is_of_a_kind_that_a_row_knows() -> None:
    patterns = [re.compile(words.pattern, re.IGNORECASE) for words in CATALOG.source_words]
    assert [f.source for f in FACTS if not any(pattern.search(f.source) for pattern in patterns)] == []
    kinds = {CATALOG.kind_of_source(fact.source) for fact in FACTS}
    assert kinds == {"vendor", "api", "repo", "third_party", "measured", "derived", "assumed", "recalled"}


def test_every_number_of_every_fact_has_a_unit() -> None:
    """A count or a ratio has the unit 1; what is none is named with its unit at the end."""
    plain = {
        figure.name.split(".")[-1]
        for fact in FACTS
        for figure in list_figures(fact)
        if figure.unit == COUNT_UNIT
        and not re.search(r"count|share|heads|layers|experts|factor|drift|ratio", figure.name)
    }
    assert plain <= {
        "active_parameters", "batched_from", "capacity", "confidence", "cores", "discount", "expert_ffn", "ffn",
        "encoder_parameters", "first_steps", "head_dim", "hidden", "high", "high_12m", "kv_lora_rank", "low", "low_12m",
        "parameters", "patches_per_token", "pixels_per_token", "port", "priority", "rate", "rows", "scale_up_domain",
        "score", "threads", "tokens_least", "tokens_most", "typical", "value", "vcpu", "vocabulary",
    }  # fmt: skip


@pytest.mark.parametrize("file", sorted(path.name for path in DATA.glob("*.csv")))
def test_every_line_has_a_source_and_a_date_or_a_confidence(file: str) -> None:
    for row in read_rows(DATA, file):
        assert any(row.text(column) for column in SOURCED), (file, row.line)
        assert any(row.text(column) for column in (*DATED, "confidence", "price_confidence")), (file, row.line)


def test_every_name_in_an_offer_joins() -> None:
    for offer in CATALOG.offers:
        assert (offer.accelerator is None) == (offer.accelerator_count == 0), offer.id
        assert offer.accelerator is None or offer.accelerator in CATALOG.accelerators, offer.id
        stated = offer.region != "unspecified"
        assert (CATALOG.region(offer.provider, offer.region) is not None) == stated, offer.id
    for model in CATALOG.hosted:
        assert any(region.provider == model.provider for region in CATALOG.regions.values()), model.provider
    for score in CATALOG.scores:
        assert score.model in (CATALOG.models if score.table == "open" else {model.id for model in CATALOG.hosted})
    for alias in CATALOG.aliases:
        known = {"accelerator": CATALOG.accelerators, "model": CATALOG.models, "provider": CATALOG.providers}
        # A billing catalogue's name of a machine family has no row; its id is the first word of the machine types.
        charged = alias.kind == "charge" and (alias.id in CATALOG.accelerators or alias.id.partition("-")[0].isalnum())
        assert alias.kind == "word" or charged or alias.id in known[alias.kind], alias.name
    for artefact in CATALOG.artefacts.values():
        assert artefact.model in CATALOG.models
    for region in CATALOG.regions.values():
        assert region.country in CATALOG.countries, region.region
        assert (region.data_zone == "EEA") == CATALOG.is_inside(region.country, "EEA"), region.region
    assert {row.country for row in CATALOG.tariffs} - set(CATALOG.countries) == {"EU27", "WORLD"}


def test_parameters_recount_from_the_architecture() -> None:
    checked = 0
    for row in read_rows(DATA, "llms_open.csv"):
        model = CATALOG.models[row.required_text("model_id")]
        if not row.text("param_check_pct") or model.shared_experts:
            continue
        checked += 1
        counts = [plausibility_checks.count_parameters(model, tied=tied) for tied in (True, False)]
        assert min(abs(count / model.parameters - 1) for count in counts) < 0.02, model.id
    assert checked >= 50


def test_models_are_consistent() -> None:
    for model in CATALOG.models.values():
        assert 0 < model.active_parameters <= model.parameters, model.id
        assert 0 < model.full_attention_layers <= model.layers, model.id
        assert model.heads % model.kv_heads == 0, model.id
        assert 0 <= model.experts_active <= model.experts, model.id
        if model.attention in ("mha", "gqa", "swa_mix"):
            assert model.kv_bytes_per_token_bf16 == 4 * model.layers * model.kv_heads * model.head_dim, model.id


def test_hosted_prices_and_their_second_source() -> None:
    for model in CATALOG.hosted:
        assert 0 <= model.input_usd_per_token < 1e-3
        assert 0 <= model.output_usd_per_token < 1e-3
        if model.agrees:
            assert model.second_input_usd_per_token == pytest.approx(model.input_usd_per_token, rel=0.01)
    assert sum(model.agrees is False for model in CATALOG.hosted) == 5
    assert {model.confidence for model in CATALOG.hosted if model.agrees is False} == {"low"}


ENGINE_QUANTITIES = {"waiting", "kv_share", "preemptions", "prefix_queries", "prefix_hits"}


def test_engines_name_quantities_we_measure() -> None:
    for engine in CATALOG.engines.values():
        assert set(CATALOG.list_engine_series(engine.id)) <= set(METRIC_BY_QUANTITY)
        assert set(engine.quantisations) <= set(CATALOG.quantisations)


def test_series_of_engines_have_one_name_per_version() -> None:
    rows = CATALOG.engine_metrics
    assert {row.engine for row in rows} <= set(CATALOG.engines)
    assert {row.quantity for row in rows} - set(METRIC_BY_QUANTITY) == ENGINE_QUANTITIES
    versions = ["", *(version for row in rows for version in (row.since, row.until) if version)]
    for version in versions:
        found = [(row.engine, row.quantity) for row in rows if row.covers(version)]
        assert len(found) == len(set(found)), version
    for row in rows:  # a former name has a successor from the version on in which it is gone
        heirs = [one for one in rows if (one.engine, one.quantity, one.since) == (row.engine, row.quantity, row.until)]
        assert not row.until or len(heirs) == 1, row.series


def test_versions_compare_by_their_numbers() -> None:
    new, old = (
        next(row for row in CATALOG.engine_metrics if row.series == f"vllm:{n}_cache_usage_perc") for n in ("kv", "gpu")
    )
    for version, expected in (("", new), ("0.9.1", old), ("0.9.2", new), ("v0.10.0", new), ("0.33.0", new)):
        assert (new.covers(version), old.covers(version)) == (expected is new, expected is old), version


def test_efficiencies_are_shares_and_factors() -> None:
    for row in CATALOG.efficiencies:
        for share in (row.prefill_share_of_matmul, row.decode_share_of_matmul, row.decode_share_of_bandwidth):
            # Matrix instructions multiply 16 bits many times as fast as the vectors that the shares refer to.
            assert 0 < share < (16 if row.isa in ("amx", "avx512-bf16") else 2)
        assert min(row.low_factor, row.high_factor) >= 1
        assert row.engine == "*" or row.engine in CATALOG.engines
        assert row.quantisation == "*" or row.quantisation in CATALOG.quantisations


def test_training_efficiencies_are_shares_and_factors() -> None:
    for row in CATALOG.training_efficiencies:
        assert 0 < row.share_of_matmul < 2 and 0 < row.attention_share_of_matmul < 2
        assert min(row.low_factor, row.high_factor, row.memory_low_factor, row.memory_high_factor) >= 1
        assert row.dtype in DTYPE_BYTES and row.process_bytes > 1e8
    # Each task has a row for any processor.
    assert {row.task for row in CATALOG.training_efficiencies if row.isa == "*"} == set(get_args(Task))


def test_the_small_models_file_is_the_one_of_its_row(model_home: Home) -> None:
    artefact = CATALOG.artefacts["SmolLM2-135M-Instruct"]
    assert (len(artefact.sha256), artefact.licence) == (64, "apache-2.0")
    assert model_home.model(artefact.sha256).stat().st_size == artefact.size_bytes
