"""gateway.yaml becomes a GatewayConfig; each error names the line, the field and near names."""

from __future__ import annotations

from pathlib import Path

import pytest

from archwright.errors import OperateError
from archwright.serving.settings.config import GatewayConfig
from archwright.serving.settings.gateway_file import GatewayFile, read_gateway_file
from archwright.serving.settings.prices import UpstreamPrice

BASE = GatewayConfig(pools=(), endpoints=())
TEXT = """\
port: 8999
models:
  chat:
    aliases: [gpt-4o]
    fallbacks: [small]
    upstreams:
      - provider: azure
        endpoint: http://127.0.0.1:9/
        deployment: d1
        api_version: 2024-10-21
        key: env:PATH
        price: {input: 2.5, output: 10}
      - url: http://127.0.0.1:9/v1
        key: env:HOME
        weight: 3
        place: DE
  small:
    residency: [DE]
    cache: all
    upstreams: [{url: [https://models.example.org/v1/], name: far, vision: false}]
"""


def read(folder: Path, text: str) -> GatewayFile:
    path = folder / "gateway.yaml"
    path.write_text(text)
    found = read_gateway_file(path, BASE)
    found.check()
    return found


def test_a_file_is_a_configuration(tmp_path: Path) -> None:
    config = read(tmp_path, TEXT).config
    first, second, far = config.pools
    assert config.port == 8999 and config.host == BASE.host
    assert first.addresses == ("http://127.0.0.1:9/openai/deployments/d1",) and first.engine_model == "d1"
    assert (first.query, first.key_header, first.exact_url) == ("api-version=2024-10-21", "api-key", True)
    assert (first.price_in_usd, first.price_out_usd) == (2.5e-6, 1e-5)
    assert (second.name, second.engine_model, second.place, second.own) == ("chat-2", "chat", "DE", True)
    assert (far.name, far.own, far.vision, far.prices) == ("far", False, False, None)
    assert far.addresses == ("https://models.example.org/v1",)
    chat, small = config.endpoints
    assert [(target.pool, target.weight) for target in chat.targets] == [("chat", 1), ("chat-2", 3)]
    assert chat.aliases == ("gpt-4o",) and chat.fallback == ("far",) and chat.cache == "off" and chat.detect is False
    assert small.cache == "all" and small.detect is None and small.residency == ("DE",)


def test_each_kind_of_tokens_has_a_price_of_its_own(tmp_path: Path) -> None:
    kinds = (
        "cache_read: 0.25, cache_write: 3.125, cache_write_1h: 5, reasoning: 12, audio: 40, image: 0.002, request: 0.01"
    )
    tier = "{above: 200000, input: 5, output: 15, cache_read: 0.5}"
    price = f"{{input: 2.5, output: 10, {kinds}, long_context: [{tier}]}}"
    prices = read(tmp_path, TEXT.replace("{input: 2.5, output: 10}", price)).config.pools[0].prices
    assert prices is not None and (prices.image, prices.request) == (0.002, 0.01)
    assert prices.base == pytest.approx((2.5e-6, 1e-5, 0.25e-6, 3.125e-6, 5e-6, 40e-6, 12e-6))
    ((above, rates),) = prices.long_context
    assert above == 200_000 and list(rates) == pytest.approx([5e-6, 15e-6, 0.5e-6, 5e-6, 5e-6, 5e-6, 15e-6])
    assert prices.always == {"cache_write", "cache_write_1h"}, "Azure writes its cache without a mark"


def test_a_price_of_the_list_is_found_by_provider_and_model(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    listed = {
        "anthropic/opus": UpstreamPrice(input=5.0, output=25.0, cache_read=0.5),
        "xai/grok": UpstreamPrice(input=2.0),
    }
    for stated, model, usd in (("list", "opus", 5e-6), ("list:xai/grok", "opus", 2e-6)):
        path.write_text(f"models: {{m: {{upstreams: [{{provider: anthropic, model: {model}, price: '{stated}'}}]}}}}")
        (pool,) = read_gateway_file(path, BASE, lambda: listed).config.pools
        assert pool.price_in_usd == pytest.approx(usd)
    path.write_text("models: {m: {upstreams: [{provider: anthropic, model: opus-5, price: list}]}}")
    with pytest.raises(OperateError, match="anthropic/opus-5") as caught:
        read_gateway_file(path, BASE, lambda: listed)
    assert (caught.value.nearest, caught.value.where.field) == (("anthropic/opus",), "models.m.upstreams[0].price")


@pytest.mark.process
def test_the_output_of_a_command_is_a_key(tmp_path: Path) -> None:
    text = TEXT.replace("env:PATH", "{command: [echo, tok], every_s: 5}")
    assert read(tmp_path, text).config.pools[0].key == 'command:5:["echo","tok"]'
    with pytest.raises(OperateError, match="command:cat cannot be read: the command ended with status 1") as caught:
        read(tmp_path, text.replace("[echo, tok]", "[cat, /dev/null/sk-secret]"))
    assert caught.value.code == "AW-OPS-15" and "sk-secret" not in caught.value.lines()
    assert (caught.value.where.line, caught.value.where.field) == (11, "models.chat.upstreams[0].key")


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-file")
    (tmp_path / "key").chmod(0o600)
    found = read(tmp_path, TEXT.replace("env:HOME", "file:key"))
    assert found.config.pools[1].key == f"file:{tmp_path}/key"
    with pytest.raises(OperateError, match="certificate") as caught:
        read(tmp_path, f"tls: {{certificate: c.pem, key: key}}\n{TEXT}")
    assert caught.value.code == "AW-OPS-12"


@pytest.mark.parametrize(
    ("before", "after", "code", "place", "near"),
    [
        ("aliases", "alias", "AW-OPS-71", (4, "models.chat.alias"), "aliases"),
        ("azure", "azur", "AW-OPS-71", (7, "models.chat.upstreams[0].provider"), "azure"),
        ("api_version: 2024-10-21", "region: x", "AW-OPS-72", (10, "models.chat.upstreams[0].region"), ""),
        ("deployment: d1", "region: x", "AW-OPS-72", (7, "models.chat.upstreams[0].deployment"), ""),
        ("DE", "Germany", "AW-OPS-13", (16, "models.chat.upstreams[1].place"), ""),
        ("[small]", "[smal]", "AW-OPS-71", (5, "models.chat.fallbacks[0]"), "small"),
        ("[small]", "[chat]", "AW-OPS-71", (5, "models.chat.fallbacks[0]"), ""),
        ("[gpt-4o]", "[small]", "AW-OPS-13", (4, "models.chat.aliases"), ""),
        ("env:HOME", "env:NO_SUCH_KEY", "AW-OPS-15", (14, "models.chat.upstreams[1].key"), ""),
        ("env:HOME", "sk-secret", "AW-OPS-13", (14, "models.chat.upstreams[1].key"), ""),
        ("env:PATH", "{command: []}", "AW-OPS-71", (11, "models.chat.upstreams[0].key.command"), ""),
        ("weight: 3", "weight: -3", "AW-OPS-71", (15, "models.chat.upstreams[1].weight"), ""),
        ("weight: 3", "context: -3", "AW-OPS-13", (15, "models.chat.upstreams[1].context"), ""),
        ("{input: 2.5", "{inputs: 2.5", "AW-OPS-71", (12, "models.chat.upstreams[0].price.inputs"), "input"),
        ("input: 2.5", "input: 2500000", "AW-OPS-71", (12, "models.chat.upstreams[0].price.input"), ""),
        (
            "{input: 2.5",
            "{cache_reed: 1, input: 1",
            "AW-OPS-71",
            (12, "models.chat.upstreams[0].price.cache_reed"),
            "cache_read",
        ),
        ("output: 10}", "output: 10, request: 1e6}", "AW-OPS-71", (12, "models.chat.upstreams[0].price.request"), ""),
        ("{input: 2.5, output: 10}", "lists", "AW-OPS-71", (12, "models.chat.upstreams[0].price"), "list"),
        ("{input: 2.5, output: 10}", "list", "AW-OPS-71", (12, "models.chat.upstreams[0].price"), ""),
        ("cache: all", "cache: al", "AW-OPS-71", (19, "models.small.cache"), "all"),
        ("port: 8999", "port: 99999", "AW-OPS-71", (1, "port"), ""),
        ("port: 8999", "prot: 8999", "AW-OPS-71", (1, "prot"), "port"),
        ("port: 8999", "host: 0.0.0.0", "AW-OPS-11", (1, "host"), ""),
        ("port: 8999", "limits: {conections: 5}", "AW-OPS-71", (1, "limits.conections"), "connections"),
        ("port: 8999", "limits: {connections: 0}", "AW-OPS-13", (1, "limits.connections"), ""),
        ("port: 8999", "port: [", "AW-OPS-71", (3, "port[1]"), ""),
        ("http://127.0.0.1:9/v1", "http://u:pass@h/v1", "AW-OPS-72", (13, "models.chat.upstreams[1].url"), ""),
    ],
)
def test_an_error_has_line_and_field(
    tmp_path: Path, before: str, after: str, code: str, place: tuple[int, str], near: str
) -> None:
    assert before in TEXT
    with pytest.raises(OperateError) as caught:
        read(tmp_path, TEXT.replace(before, after, 1))
    error = caught.value
    where = error.where
    assert (error.code, where.file, where.line) == (code, f"{tmp_path}/gateway.yaml", place[0]), error.lines()
    assert where.field == place[1]
    assert near in (*error.nearest, ""), error.lines()
    assert "sk-secret" not in error.lines() and "u:pass" not in error.lines()


def test_the_only_model_has_no_other_models_to_name(tmp_path: Path) -> None:
    with pytest.raises(OperateError) as caught:
        read(tmp_path, "models: {a: {fallbacks: [b], upstreams: [{url: 'http://h/v1'}]}}")
    assert caught.value.hint and "one of" not in caught.value.hint


PRICED = """\
models:
  chat:
    upstreams:
      - url: http://127.0.0.1:9/v1
        price: {{input: {price}, output: 1}}
"""


@pytest.mark.parametrize(
    ("price", "said"),
    [(".nan", "not a number"), ("-1", "is -1;"), (".inf", "is inf;"), ("2000000", "at most 1,000,000")],
)
def test_a_price_outside_its_bounds_is_named(tmp_path: Path, price: str, said: str) -> None:
    with pytest.raises(OperateError) as refused:
        read(tmp_path, PRICED.format(price=price))
    error = refused.value
    assert said in error.message and "price.input" in error.message and "Expected" not in error.message
    assert error.hint.startswith("state USD per million tokens") and error.where.line == 5


def test_a_misspelt_field_has_one_suggestion(tmp_path: Path) -> None:
    with pytest.raises(OperateError) as refused:
        read(tmp_path, TEXT.replace("models:", "modles:"))
    assert (refused.value.hint, refused.value.nearest) == ("did you mean models?", ("models",))


def test_a_file_may_have_thousands_of_models(tmp_path: Path) -> None:
    upstream = "upstreams: [{url: https://models.example.org/v1, price: {input: 1, output: 2}}]"
    count = 2_000
    models = "".join(f"  model-{n}:\n    aliases: [other-{n}]\n    {upstream}\n" for n in range(count))
    assert len(models) > 3 * 64 * 1024
    found = read(tmp_path, "models:\n" + models)
    assert len(found.config.pools) == len(found.config.endpoints) == count
    with pytest.raises(OperateError, match="names another model"):
        read(tmp_path, "models:\n" + models.replace("[other-7]", "[other-8]"))
    with pytest.raises(OperateError, match="larger than 4194304 bytes"):
        read(tmp_path, "models:\n" + "  # a comment\n" * (1 << 19))
