"""gateway.yaml becomes a GatewayConfig; each error names the line, the field and near names."""

from __future__ import annotations

from pathlib import Path

import pytest

from archwright.errors import OperateError
from archwright.serving.settings.config import GatewayConfig
from archwright.serving.settings.gateway_file import GatewayFile, read_gateway_file

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
    assert first.prices == (2.5e-6, 1e-5)
    assert (second.name, second.engine_model, second.place, second.own) == ("chat-2", "chat", "DE", True)
    assert (far.name, far.own, far.vision, far.prices) == ("far", False, False, (None, None))
    assert far.addresses == ("https://models.example.org/v1",)
    chat, small = config.endpoints
    assert [(target.pool, target.weight) for target in chat.targets] == [("chat", 1), ("chat-2", 3)]
    assert chat.aliases == ("gpt-4o",) and chat.fallback == ("far",) and chat.cache == "off" and chat.detect is False
    assert small.cache == "all" and small.detect is None and small.residency == ("DE",)


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
