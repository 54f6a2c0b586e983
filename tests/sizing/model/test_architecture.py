"""Parameters, KV cache and FLOPs of known models, against published figures."""

from __future__ import annotations

import pytest

from archwright.catalog.catalog import Catalog
from archwright.contract.record import replace
from archwright.sizing.model.architecture import (
    attention_flops,
    body_parameters,
    cache_bytes,
    cache_bytes_per_token,
    head_parameters,
    parameters_touched,
)

SMALL = "SmolLM2-135M-Instruct"


@pytest.mark.parametrize(
    ("name", "per_token"),
    [
        (SMALL, 23_040),
        ("Llama-3.1-8B-Instruct", 131_072),
        ("Llama-3.3-70B-Instruct", 327_680),
        ("DeepSeek-V3", 61 * 576 * 2),
    ],
)
def test_known_cache_sizes(catalog: Catalog, name: str, per_token: int) -> None:
    assert cache_bytes_per_token(catalog.models[name]) == per_token


def test_an_8_bit_cache_is_half_and_without_a_stated_constant_the_shape_bounds_it(catalog: Catalog) -> None:
    model = catalog.models[SMALL]
    assert cache_bytes(model, 100, bits=8) == cache_bytes(model, 100) / 2
    assert cache_bytes_per_token(replace(model, kv_bytes_per_token_bf16=None)) == 23_040


def test_every_model_states_what_its_shape_says(catalog: Catalog) -> None:
    """Two independent ways to the same number, for plain grouped-query models."""
    for model in catalog.models.values():
        if model.attention in ("gqa", "mha") and model.kv_bytes_per_token_bf16 is not None:
            assert model.kv_bytes_per_token_bf16 == 4 * model.layers * model.kv_heads * model.head_dim, model.id


def test_a_sliding_window_stops_growing_but_for_its_full_layers(catalog: Catalog) -> None:
    model = catalog.models["Gemma-3-27B-it"]
    assert model.sliding_window is not None
    inside, far = cache_bytes(model, model.sliding_window), cache_bytes(model, 10 * model.sliding_window)
    assert inside == cache_bytes_per_token(model) * model.sliding_window
    full = model.full_attention_layers / model.layers
    assert far == pytest.approx(inside * (10 * full + (1 - full)))


@pytest.mark.parametrize(
    ("name", "body"),
    [(SMALL, 106.2e6), ("Llama-3.1-8B-Instruct", 6.98e9), ("Llama-3.3-70B-Instruct", 68.5e9)],
)
def test_parameters_that_compute(catalog: Catalog, name: str, body: float) -> None:
    assert body_parameters(catalog.models[name]) == pytest.approx(body, rel=0.01)


def test_experts_count_as_far_as_they_are_active(catalog: Catalog) -> None:
    model = catalog.models["Qwen3-30B-A3B"]
    body = body_parameters(model)
    assert body == model.active_parameters - head_parameters(model)
    assert parameters_touched(model, 1) == pytest.approx(model.active_parameters)
    touched = [parameters_touched(model, tokens) for tokens in (1, 2, 8, 64, 100_000)]
    assert touched == sorted(touched)
    assert touched[-1] == pytest.approx(model.parameters)


def test_a_vocabulary_larger_than_the_model_leaves_a_body(catalog: Catalog) -> None:
    model = replace(catalog.models[SMALL], ffn=None, vocabulary=10**9)
    assert body_parameters(model) == 0.1 * model.active_parameters


def test_a_dense_model_is_read_whole(catalog: Catalog) -> None:
    model = catalog.models[SMALL]
    assert parameters_touched(model, 1) == parameters_touched(model, 500) == model.parameters
    sparse = catalog.models["Qwen3-30B-A3B"]
    assert parameters_touched(sparse, 0) == sparse.parameters


def test_attention_grows_with_the_context_up_to_a_window(catalog: Catalog) -> None:
    plain, windowed = catalog.models[SMALL], catalog.models["Gemma-3-27B-it"]
    assert attention_flops(plain, 1000) == 4 * 576 * 30 * 1000
    near, far = attention_flops(windowed, 1024), attention_flops(windowed, 2048)
    assert near < far < 2 * near
