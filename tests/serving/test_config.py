"""A configuration that would serve in the clear, or could not serve, never starts."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import msgspec
import pytest

from archwright.errors import ArchwrightError, OperateError
from archwright.serving.config import EndpointSpec, GatewayConfig, check, is_loopback, listen, read


def endpoint(**changes: Any) -> EndpointSpec:
    given: dict[str, Any] = {
        "model": "m",
        "workload": "desk",
        "pool": "p",
        "addresses": ("unix:e",),
        "default_max_tokens": 16,
        "context_tokens": 128,
        "slots": 1,
    }
    return EndpointSpec(**{**given, **changes})


def config(*endpoints: EndpointSpec, **changes: Any) -> GatewayConfig:
    return GatewayConfig(endpoints=endpoints or (endpoint(),), **changes)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", "127.0.0.1.example.org", ""])
def test_refuses_to_listen_in_the_clear(host: str) -> None:
    with pytest.raises(OperateError) as caught:
        check(config(host=host), "gateway.json")
    assert caught.value.code == "AW-OPS-11"
    assert len(caught.value.lines().splitlines()) == 3


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_loopback_needs_no_tls(host: str) -> None:
    assert is_loopback(host)
    check(config(host=host))


def test_any_address_with_a_usable_pair(tls_pair: tuple[str, str]) -> None:
    cert, key = tls_pair
    check(config(host="0.0.0.0", tls_certificate=cert, tls_key=key))


def test_refuses_an_unusable_pair(tls_pair: tuple[str, str], tmp_path: Path) -> None:
    cert, key = tls_pair
    for pair in [(cert, None), (None, key), (cert, cert), (cert, str(tmp_path / "none"))]:
        with pytest.raises(OperateError) as caught:
            check(config(tls_certificate=pair[0], tls_key=pair[1]))
        assert caught.value.code == "AW-OPS-12"
        assert caught.value.hint


@pytest.mark.parametrize(
    ("endpoints", "says"),
    [
        ((endpoint(addresses=()),), "no address"),
        ((endpoint(slots=0),), "at least 1"),
        ((endpoint(context_tokens=0),), "at least 1"),
        ((endpoint(default_max_tokens=-1),), "at least 1"),
        ((endpoint(), endpoint()), "a second time"),
        ((endpoint(), endpoint(workload="b", slots=2)), "differently"),
        ((endpoint(), endpoint(workload="b", addresses=("unix:f",))), "differently"),
    ],
)
def test_refuses_endpoints_that_cannot_serve(endpoints: tuple[EndpointSpec, ...], says: str) -> None:
    with pytest.raises(OperateError, match=says) as caught:
        check(config(*endpoints))
    assert caught.value.code == "AW-OPS-13"


def test_reads_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "gateway.json"
    path.write_bytes(msgspec.json.encode(config(endpoint(), endpoint(workload="b"))))
    assert read(path) == config(endpoint(), endpoint(workload="b"))


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"endpoints": [], "prot": 1}', b"\xff", b'{"endpoints": 3}'])
def test_a_broken_file_is_said_in_three_lines(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "gateway.json"
    path.write_bytes(text)
    with pytest.raises(OperateError) as caught:
        read(path)
    assert caught.value.code == "AW-OPS-10"
    assert str(path) in caught.value.lines()


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ArchwrightError) as caught:
        read(tmp_path / "none.json")
    assert caught.value.code == "AW-USE-01"


@pytest.mark.enable_socket
def test_a_port_in_use_is_said() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(OperateError) as caught:
            listen("127.0.0.1", other.getsockname()[1])
    assert caught.value.code == "AW-OPS-03"
    assert "127.0.0.1" in str(caught.value.where)


@pytest.mark.enable_socket
def test_port_zero_is_any_free_one() -> None:
    with listen("127.0.0.1", 0) as bound:
        assert bound.getsockname()[1] > 0


@pytest.mark.enable_socket
def test_a_host_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(*_args: object, **_options: object) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    with pytest.raises(ArchwrightError):
        listen("localhost", 8470)


@pytest.mark.parametrize(
    ("changes", "url"),
    [
        ({}, "http://127.0.0.1:8470/v1"),
        ({"host": "::1", "port": 9}, "http://[::1]:9/v1"),
        ({"tls_certificate": "c", "tls_key": "k"}, "https://127.0.0.1:8470/v1"),
    ],
)
def test_url(changes: dict[str, Any], url: str) -> None:
    assert config(**changes).url == url
