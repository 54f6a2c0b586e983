"""A configuration without required TLS, or that cannot serve, is rejected at start."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import msgspec
import pytest

from archwright.contract.record import replace
from archwright.errors import ArchwrightError, OperateError
from archwright.serving.http.client_limits import LIMIT_BOUNDS, ClientLimits
from archwright.serving.settings.config import (
    GatewayConfig,
    WeightedTarget,
    bind_listener,
    check_config,
    is_loopback,
    read_config,
)

from ..conftest import Entry, endpoint, table


def config(*entries: Entry, **changes: Any) -> GatewayConfig:
    return table(*(entries or (endpoint(),)), **changes)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", "127.0.0.1.example.org", ""])
def test_refuses_to_listen_in_the_clear(host: str) -> None:
    with pytest.raises(OperateError) as caught:
        check_config(config(host=host), "gateway.json")
    assert caught.value.code == "AW-OPS-11"
    assert len(caught.value.lines().splitlines()) == 3


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_loopback_needs_no_tls(host: str) -> None:
    assert is_loopback(host)
    check_config(config(host=host))


def test_any_address_with_a_usable_pair(tls_pair: tuple[str, str]) -> None:
    cert, key = tls_pair
    check_config(config(host="0.0.0.0", tls_certificate=cert, tls_key=key))


def test_refuses_an_unusable_pair(tls_pair: tuple[str, str], tmp_path: Path) -> None:
    cert, key = tls_pair
    for pair in [(cert, None), (None, key), (cert, cert), (cert, str(tmp_path / "none"))]:
        with pytest.raises(OperateError) as caught:
            check_config(config(tls_certificate=pair[0], tls_key=pair[1]))
        assert caught.value.code == "AW-OPS-12"
        assert caught.value.hint


def targets(*weights: float) -> dict[str, Any]:
    return {
        "targets": tuple(WeightedTarget(pool=name, weight=weight) for name, weight in zip("pq", weights, strict=True))
    }


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"addresses": ()}, "no address"),
        ({"slots": 0}, "at least 1"),
        ({"context_tokens": 0}, "at least 1"),
        ({"default_max_tokens": -1}, "at least 1"),
        ({"key": "sk-secret"}, "env:NAME or file:PATH"),
        ({"key": "env:"}, "env:NAME or file:PATH"),
        ({"addresses": ("https://user:sk-secret@example.org/v1",)}, "user or password"),
        ({"place": "Germany"}, "two letters"),
        ({"price_in_usd": -1.0}, "0 to 1 USD"),
        ({"price_out_usd": 1.5}, "0 to 1 USD"),
        ({"first_token_s": -1.0}, "at least 0"),
        ({"first_token_s": float("nan")}, "at least 0"),
        ({"targets": ()}, "no target"),
        ({"fallback": ("nowhere",)}, "'nowhere'"),
        ({"shadow": "nowhere", "shadow_share": 0.1}, "'nowhere'"),
        (targets(0.0, 0.0), "weights"),
        (targets(1.0, -1.0), "weights"),
        ({"fallback": ("p",)}, "twice"),
        ({"overflow": ("q",), "fallback": ("q",)}, "twice"),
        ({"shadow": "p", "shadow_share": 0.1}, "already serves"),
        ({"shadow": "q"}, "neither"),
        ({"shadow_share": 0.5}, "neither"),
        ({"shadow": "q", "shadow_share": 1.5}, "at most 1"),
        ({"overflow_wait_s": -1.0}, "overflow_wait_s"),
        ({"wait_s": 0.0}, "wait_s"),
        ({"residency_of": {"health": ("Germany",)}}, "residency as ISO country codes"),
        ({"residency": ("EU",)}, ""),
        ({"residency": ("Europe",)}, "country codes of two letters"),
    ],
)
def test_refuses_a_table_that_cannot_serve(changes: dict[str, Any], says: str) -> None:
    made = config(endpoint(**changes), more=(endpoint(pool="q").pool,))
    if not says:
        check_config(made)
        return
    with pytest.raises(OperateError, match=says) as caught:
        check_config(made)
    assert caught.value.code == "AW-OPS-13"
    assert "sk-secret" not in caught.value.lines()


@pytest.mark.parametrize("name", ClientLimits.__struct_fields__)
@pytest.mark.parametrize("wrong", [-1, 2**62, float("nan")])
def test_every_limit_has_its_bounds(name: str, wrong: float) -> None:
    given: Any = {name: wrong}
    with pytest.raises(OperateError, match=f"limits.{name} is .* from .* to ") as caught:
        check_config(config(limits=ClientLimits(**given)), "gateway.json")
    assert caught.value.code == "AW-OPS-13" and caught.value.hint
    assert (caught.value.where.file, caught.value.where.field) == ("gateway.json", f"limits.{name}")


@pytest.mark.parametrize(
    "limits",
    [{"connections": 0}, {"body_bytes": 0}, {"headers": 0}, {"request_s": 0}, {"sweep_s": 0}, {"stall_s": 1e9}],
)
def test_limits_of_a_file_that_would_serve_nobody(tmp_path: Path, limits: dict[str, float]) -> None:
    path = tmp_path / "gateway.json"
    path.write_bytes(msgspec.json.encode({**msgspec.to_builtins(config()), "limits": limits}))
    with pytest.raises(OperateError) as caught:
        read_config(path)
    assert caught.value.code == "AW-OPS-13" and f"limits.{next(iter(limits))}" in caught.value.lines()


def test_limits_at_their_bounds_serve() -> None:
    for side in (0, 1):
        at: Any = {name: bounds[side] for name, bounds in LIMIT_BOUNDS.items()}
        check_config(config(limits=ClientLimits(**at)))
    assert set(LIMIT_BOUNDS) == set(ClientLimits.__struct_fields__)


def test_no_endpoint_and_no_pool_twice() -> None:
    twice = config(endpoint(), endpoint())
    with pytest.raises(OperateError, match="repeats the model"):
        check_config(twice)
    with pytest.raises(OperateError, match="repeats the pool name"):
        check_config(replace(twice, pools=twice.pools * 2))


def test_context_is_at_most_what_every_answering_pool_holds() -> None:
    small = endpoint(pool="small", context_tokens=100).pool
    check_config(config(endpoint(fallback=("small",)), more=(small,)))
    whole = config(endpoint(fallback=("small",)), more=(small,))
    spec = replace(whole.endpoints[0], context_tokens=101)
    with pytest.raises(OperateError, match="at most its pools' 100"):
        check_config(replace(whole, endpoints=(spec,)))


@pytest.mark.parametrize(
    ("data_class", "place", "own", "fits"),
    [
        ("health", "DE", False, True),
        ("health", "FR", False, False),
        ("personal", "FR", True, False),
        ("payment", "", False, False),
        ("payment", "", True, True),
        ("internal", "", False, True),
        ("", "FR", False, True),
    ],
)
@pytest.mark.parametrize("use", [{"fallback": ("q",)}, {"overflow": ("q",)}, {"shadow": "q", "shadow_share": 0.1}])
def test_a_pool_beyond_the_residency_is_refused_at_start(
    data_class: str, place: str, own: bool, fits: bool, use: dict[str, Any]
) -> None:
    other = endpoint(pool="q", place=place, own=own).pool
    made = config(endpoint(data_class=data_class, residency=("DE",), **use), more=(other,))
    if fits:
        check_config(made)
        return
    with pytest.raises(OperateError) as caught:
        check_config(made)
    assert caught.value.code == "AW-OPS-14" and "'q'" in caught.value.message


def test_reads_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "gateway.json"
    path.write_bytes(msgspec.json.encode(config(endpoint(), endpoint(workload="b"))))
    assert read_config(path) == config(endpoint(), endpoint(workload="b"))


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{}", b'{"pools": [], "endpoints": [], "prot": 1}', b"\xff", b'{"endpoints": 3}']
)
def test_a_broken_file_is_said_in_three_lines(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "gateway.json"
    path.write_bytes(text)
    with pytest.raises(OperateError) as caught:
        read_config(path)
    assert caught.value.code == "AW-OPS-10"
    assert str(path) in caught.value.lines()


@pytest.mark.parametrize(
    "wrong",
    [
        {"workers": 0},
        {"traces": {"url": "localhost:4317"}},
        {"traces": {"url": "http://c:4318", "share": 10}},
    ],
)
def test_settings_without_workers_or_a_valid_collector_are_rejected(tmp_path: Path, wrong: dict[str, Any]) -> None:
    path = tmp_path / "gateway.json"
    path.write_bytes(msgspec.json.encode({**msgspec.to_builtins(config(endpoint())), **wrong}))
    with pytest.raises(OperateError) as caught:
        read_config(path)
    assert caught.value.code == "AW-OPS-10" and f"$.{next(iter(wrong))}" in caught.value.message


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ArchwrightError) as caught:
        read_config(tmp_path / "none.json")
    assert caught.value.code == "AW-USE-01"


@pytest.mark.enable_socket
def test_a_port_in_use_is_said() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(OperateError) as caught:
            bind_listener("127.0.0.1", other.getsockname()[1])
    assert caught.value.code == "AW-OPS-03"
    assert "127.0.0.1" in str(caught.value.where)


@pytest.mark.enable_socket
def test_port_zero_is_any_free_one() -> None:
    with bind_listener("127.0.0.1", 0) as bound:
        assert bound.getsockname()[1] > 0


@pytest.mark.enable_socket
def test_a_host_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(*_args: object, **_options: object) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    with pytest.raises(ArchwrightError):
        bind_listener("localhost", 8470)


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
