"""LiteLLM's configuration becomes a gateway.yaml that `serve` accepts; the rest is listed, without secrets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from archwright import api
from archwright.errors import UsageError
from archwright.serving.settings.config import GatewayConfig, check_config
from archwright.serving.settings.gateway_file import read_gateway_file
from archwright.serving.settings.litellm_import import LeftOut, import_litellm_config
from archwright.serving.settings.prices import UpstreamPrice

EVERYTHING = """\
model_list:
  - model_name: gpt-4o
    litellm_params:
      model: azure/deployed-4o
      api_base: https://r.openai.azure.com/openai/
      api_key: os.environ/AZURE_KEY_EU
      api_version: "2024-10-21"
      rpm: 480
      input_cost_per_token: 0.0000025
      output_cost_per_token: 1e-5
      max_parallel_requests: 32
    model_info: {id: "1", base_model: azure/gpt-4o, max_input_tokens: 128000}
  - model_name: gpt-4o
    litellm_params: {model: gpt-4o, api_key: sk-literal-secret, rpm: 120, timeout: 300}
  - model_name: claude
    litellm_params: {model: anthropic/claude-sonnet-4-5, api_base: https://api.anthropic.com, max_tokens: 8192}
  - model_name: rock
    litellm_params:
      model: bedrock/openai.gpt-oss-120b-1:0
      aws_region_name: os.environ/ROCK_REGION
      aws_access_key_id: AKIA-secret
  - model_name: gemini
    litellm_params: {model: vertex_ai/gemini-2.5-flash, vertex_project: p-1, vertex_location: global}
  - model_name: local
    litellm_params: {model: hosted_vllm/qwen3, api_base: "http://gpu-1:8000", weight: 2}
    model_info: {mode: chat, supports_vision: false}
  - model_name: local
    litellm_params: {model: ollama_chat/qwen3, weight: 1}
  - model_name: voice
    litellm_params: {model: openai/tts-1}
    model_info: {mode: audio_speech}
  - model_name: "*"
    litellm_params: {model: openai/*}
  - model_name: other
    litellm_params: {model: sagemaker/endpoint}
  - model_name: hidden
    litellm_params: {model: openai/m, api_base: "https://user:url-secret@h/v1"}
router_settings:
  routing_strategy: usage-based-routing-v2
  model_group_alias: {gpt-4: gpt-4o, secret-alias: {model: claude, hidden: true}, lost: other}
  fallbacks: [{gpt-4o: [claude, other]}]
  num_retries: 2
  timeout: 120
  redis_password: redis-secret
litellm_settings:
  default_fallbacks: [local]
  cache: true
  cache_params: {type: redis}
  drop_params: true
  callbacks: [langfuse]
general_settings:
  master_key: sk-1234-secret
  database_url: postgresql://u:db-secret@h/db
environment_variables:
  ROCK_REGION: eu-central-1
  LANGFUSE_SECRET_KEY: lf-secret
future_settings: {a: 1}
"""
SIMPLE = """\
model_list:
  - model_name: gpt-3.5-turbo
    litellm_params: {model: gpt-3.5-turbo}
"""
BALANCED = """\
model_list:
  - model_name: zephyr
    litellm_params: {model: hosted_vllm/zephyr, api_base: http://0.0.0.0:8001/v1, rpm: 60}
  - model_name: zephyr
    litellm_params: {model: hosted_vllm/zephyr, api_base: http://0.0.0.0:8002/v1, rpm: 600}
  - model_name: embed
    litellm_params: {model: openai/text-embedding-3-small, api_key: os.environ/OPENAI_API_KEY}
    model_info: {mode: embedding}
litellm_settings: {num_retries: 3, request_timeout: 10, fallbacks: [{zephyr: [embed]}]}
general_settings: {master_key: sk-1234}
"""


def convert(folder: Path, text: str) -> tuple[GatewayConfig, str, dict[str, LeftOut]]:
    """Return the configuration that the imported file makes, its text, and what was left out by field."""
    source, made = folder / "config.yaml", folder / "gateway.yaml"
    source.write_text(text)
    made.unlink(missing_ok=True)
    text, left_out = import_litellm_config(source)
    made.write_text(text)
    config = read_gateway_file(made, GatewayConfig(pools=(), endpoints=())).config
    check_config(config)
    return config, text, {one.field: one for one in left_out}


def test_everything_is_carried_over_or_listed(tmp_path: Path) -> None:
    config, text, left = convert(tmp_path, EVERYTHING)
    pools = {pool.name: pool for pool in config.pools}
    assert [spec.model for spec in config.endpoints] == ["gpt-4o", "claude", "rock", "gemini", "local"]
    first, second = pools["gpt-4o"], pools["gpt-4o-2"]
    assert first.addresses == ("https://r.openai.azure.com/openai/deployments/deployed-4o",)
    assert (first.query, first.key, first.slots) == ("api-version=2024-10-21", "env:AZURE_KEY_EU", 32)
    assert (first.price_in_usd, first.price_out_usd) == (2.5e-6, 1e-5) and first.context_tokens == 128000
    assert (second.addresses, second.key) == (("https://api.openai.com/v1",), "env:KEY_GPT_4O")
    assert pools["claude"].protocol == "anthropic" and pools["claude"].addresses == ("https://api.anthropic.com/v1",)
    assert pools["rock"].addresses[0].startswith("https://bedrock-runtime.eu-central-1.")
    assert pools["gemini"].engine_model == "google/gemini-2.5-flash" and pools["gemini"].key.startswith("command:")
    assert pools["local"].addresses == ("http://gpu-1:8000/v1",) and pools["local"].engine == "vllm"
    assert not pools["local"].vision and pools["local-2"].addresses == ("http://localhost:11434/v1",)
    chat, claude, *_, local = config.endpoints
    assert [target.weight for target in chat.targets] == [480, 120]
    assert [target.weight for target in local.targets] == [2, 1]
    assert chat.aliases == ("gpt-4",) and claude.aliases == ("secret-alias",)
    assert chat.fallback == ("claude", "local", "local-2") and local.fallback == ()
    assert config.limits.request_s == 120 and {spec.cache for spec in config.endpoints} == {"all"}
    assert claude.default_max_tokens == 8192
    for number, field in (
        (8, "model_list[0].litellm_params.rpm"),
        (14, "model_list[1].litellm_params.api_key"),
        (21, "model_list[3].litellm_params.aws_access_key_id"),
        (32, "model_list[8]"),
        (40, "router_settings.model_group_alias.lost"),
        (41, "router_settings.fallbacks"),
        (44, "router_settings.redis_password"),
        (52, "general_settings.master_key"),
        (56, "environment_variables.LANGFUSE_SECRET_KEY"),
        (57, "future_settings"),
    ):
        assert left[field].line == number, (field, left.get(field))
    assert {"model_list[7]", "model_list[9]", "model_list[10]"} <= left.keys()
    assert "secret" not in (text + str(left)).replace("secret-alias", "").replace("a secret is not", "").replace(
        "with a secret per tenant", ""
    )


SOUND = """\
model_list:
  - model_name: whisper
    litellm_params: {model: openai/whisper-1, api_key: os.environ/OPENAI_API_KEY}
    model_info: {mode: audio_transcription}
"""


PRICED = """\
model_list:
  - model_name: sonnet
    litellm_params:
      model: anthropic/claude-sonnet-4-5
      input_cost_per_token: 3e-6
      output_cost_per_token: 1.5e-5
      cache_read_input_token_cost: 3e-7
      cache_creation_input_token_cost: 0.00000375
      input_cost_per_token_above_200k_tokens: 6e-6
      output_cost_per_token_above_200k_tokens: 2.25e-5
      cache_creation_input_token_cost_above_1hr_above_200k_tokens: 1.2e-5
    model_info:
      cache_creation_input_token_cost_above_1hr: 6e-6
      output_cost_per_reasoning_token: 2e-5
      input_cost_per_audio_token: 4e-5
      input_cost_per_image: 0.0048
      input_cost_per_request: 0.01
      input_cost_per_token_batches: 1.5e-6
      input_cost_per_video_per_second: 2
  - model_name: wrong
    litellm_params: {model: openai/gpt-4o, input_cost_per_token: 5}
"""


def test_the_price_of_each_kind_is_carried_over(tmp_path: Path) -> None:
    config, _text, left = convert(tmp_path, PRICED)
    prices = config.pools[0].prices
    assert prices is not None and (prices.image, prices.request) == (0.0048, 0.01)
    assert prices.base == pytest.approx((3e-6, 15e-6, 0.3e-6, 3.75e-6, 6e-6, 40e-6, 20e-6))
    ((above, rates),) = prices.long_context
    assert above == 200_000 and rates[:2] == pytest.approx((6e-6, 22.5e-6))
    assert (rates.cache_read, rates.cache_write_1h) == pytest.approx((6e-6, 12e-6)), "not stated: as other input"
    info = "model_list[0].model_info"
    assert left.keys() == {
        *(f"{info}.input_cost_per_token_batches", f"{info}.input_cost_per_video_per_second"),
        "model_list[1].litellm_params.input_cost_per_token",
    }
    assert config.pools[1].prices is None


@pytest.mark.parametrize(
    ("params", "info", "price"),
    [
        ("model: anthropic/opus", "", "list:anthropic/opus"),
        ("model: anthropic/opus, input_cost_per_token: 1e-6", "", {"input": 1.0, "output": 0.0}),
        ("model: anthropic/other", "", None),
        ("model: openai/opus, api_base: 'http://h/v1'", "", None),
        ("model: mistral/large", "", "list:mistral/large"),
        ("model: azure/mine, api_base: 'https://h'", "base_model: azure/gpt", "list:azure-openai/gpt"),
        ("model: azure/gpt, api_base: 'https://h'", "", None),
    ],
)
def test_a_model_without_costs_has_the_price_of_the_list(tmp_path: Path, params: str, info: str, price: Any) -> None:
    source = tmp_path / "config.yaml"
    source.write_text(f"model_list: [{{model_name: m, litellm_params: {{{params}}}, model_info: {{{info}}}}}]")
    names = ("anthropic/opus", "openai/opus", "mistral/large", "azure-openai/gpt")
    text, _left = import_litellm_config(source, lambda: dict.fromkeys(names, UpstreamPrice(input=1.0)))
    assert yaml.safe_load(text)["models"]["m"]["upstreams"][0].get("price") == price


@pytest.mark.parametrize(("text", "models", "left"), [(SIMPLE, 1, 0), (BALANCED, 2, 4), (SOUND, 1, 0)])
def test_short_files(tmp_path: Path, text: str, models: int, left: int) -> None:
    config, _text, left_out = convert(tmp_path, text)
    assert (len(config.endpoints), len(left_out)) == (models, left), left_out
    assert {pool.key for pool in config.pools} <= {"env:OPENAI_API_KEY", ""}


def test_the_verb_writes_the_file_once(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(BALANCED)
    output = str(tmp_path / "gateway.yaml")
    rows = api.import_litellm(str(tmp_path / "config.yaml"), output=output)
    assert [row.line for row in rows] == sorted(row.line or 0 for row in rows)
    with pytest.raises(UsageError) as caught:
        api.import_litellm(str(tmp_path / "config.yaml"), output=output)
    assert caught.value.code == "AW-USE-84"


@pytest.mark.parametrize(
    ("text", "code", "line"),
    [
        ("model_list: [", "AW-USE-82", 2),
        ("a: &x 1", "AW-USE-82", 1),
        ("model_list:\n  - model_name: '*'\n    litellm_params: {model: openai/*}", "AW-USE-83", 2),
        ("general_settings: {a: 1}", "AW-USE-83", 1),
    ],
)
def test_another_file_is_refused(tmp_path: Path, text: str, code: str, line: int) -> None:
    with pytest.raises(UsageError) as caught:
        convert(tmp_path, text)
    assert (caught.value.code, caught.value.where.line) == (code, line)


@pytest.mark.parametrize(
    "name", ["1e5", "0x1f", "1_000", "12:30", ".5", "1.", "yes", "null", "~", "2024-10-21", "# a", "'", "a: b"]
)
def test_names_of_any_form_stay_texts(tmp_path: Path, name: str) -> None:
    entries = [
        {"model_name": n, "litellm_params": {"model": f"hosted_vllm/{name}", "api_base": "http://h/v1"}}
        for n in (name, "a\nb")
    ]
    config, _text, left = convert(tmp_path, json.dumps({"model_list": entries}))
    assert [one.model for one in config.endpoints] == [name] == [pool.model for pool in config.pools]
    assert list(left) == ["model_list[1]"]


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 10**6)
    | st.floats(0, 2)
    | st.sampled_from(["a/b", "os.environ/NO", "m"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("am*"), inner, max_size=2),
    max_leaves=4,
)
PARAMS = ("api_base", "api_key", "weight", "rpm", "input_cost_per_token", "max_tokens", "max_parallel_requests")


@settings(max_examples=60, deadline=None)
@given(
    params=st.dictionaries(st.sampled_from(PARAMS), VALUES, max_size=4),
    router=st.dictionaries(st.sampled_from(["fallbacks", "model_group_alias", "timeout", "cache"]), VALUES, max_size=3),
)
def test_any_value_is_carried_over_or_listed(
    tmp_path_factory: pytest.TempPathFactory, params: dict[str, Any], router: dict[str, Any]
) -> None:
    deployment = {"model_name": "m", "litellm_params": {"model": "hosted_vllm/x", "api_base": "http://h/v1", **params}}
    whole = {"model_list": [deployment, {**deployment, "model_name": "a"}], "router_settings": router}
    try:
        config, _text, left = convert(tmp_path_factory.mktemp("import"), json.dumps(whole))
    except UsageError as error:
        assert error.code == "AW-USE-83"
    else:
        assert len(config.endpoints) == 2 and "model_list[1]" not in left
