"""A configuration without required TLS, or that cannot serve, is rejected at start."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any
from unittest.mock import Mock

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


def refuse(code: str, made: GatewayConfig, file: str = "") -> OperateError:
    with pytest.raises(OperateError) as caught:
        check_config(made, file)
    assert caught.value.code == code and caught.value.hint
    return caught.value


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", "127.0.0.1.example.org", ""])
def test_refuses_to_listen_in_the_clear(host: str) -> None:
    assert len(refuse("AW-OPS-11", config(host=host), "gateway.json").lines().splitlines()) == 3


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_loopback_needs_no_tls(host: str) -> None:
    assert is_loopback(host)
    check_config(config(host=host))


def test_any_address_with_a_usable_pair_only(tls_pair: tuple[str, str], tmp_path: Path) -> None:
    cert, key = tls_pair
    check_config(config(host="0.0.0.0", tls_certificate=cert, tls_key=key))
    for pair in [(cert, None), (None, key), (cert, cert), (cert, str(tmp_path / "none"))]:
        refuse("AW-OPS-12", config(tls_certificate=pair[0], tls_key=pair[1]))


def targets(*weights: float) -> dict[str, Any]:
    return {
        "targets": tuple(WeightedTarget(pool=name, weight=weight) for name, weight in zip("pq", weights, strict=True))
    }


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"addresses": ()}, "no address"),
        *(({name: 0}, "at least 1") for name in ("slots", "context_tokens", "image_tokens", "default_max_tokens")),
        *(({"key": key}, "env:NAME, file:PATH or command") for key in ("sk-secret", "env:")),
        ({"addresses": ("https://user:sk-secret@example.org/v1",)}, "user or password"),
        ({"place": "Germany"}, "two letters"),
        *(({name: price}, "0 to 1 USD") for name, price in (("price_in_usd", -1.0), ("price_out_usd", 1.5))),
        *(({"first_token_s": seconds}, "at least 0") for seconds in (-1.0, float("nan"))),
        ({"targets": ()}, "no target"),
        ({"fallback": ("nowhere",)}, "'nowhere'"),
        ({"shadow": "nowhere", "shadow_share": 0.1}, "'nowhere'"),
        *((targets(*weights), "weights") for weights in ((0.0, 0.0), (1.0, -1.0))),
        ({"fallback": ("p",)}, "twice"),
        ({"overflow": ("q",), "fallback": ("q",)}, "twice"),
        ({"shadow": "p", "shadow_share": 0.1}, "already serves"),
        *((wrong, "neither") for wrong in ({"shadow": "q"}, {"shadow_share": 0.5})),
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
    lines = refuse("AW-OPS-13", made).lines()
    assert says in lines and "sk-secret" not in lines


@pytest.mark.parametrize("name", ClientLimits.__struct_fields__)
@pytest.mark.parametrize("wrong", [-1, 2**62, float("nan")])
def test_every_limit_has_its_bounds(name: str, wrong: float) -> None:
    given: Any = {name: wrong}
    error = refuse("AW-OPS-13", config(limits=ClientLimits(**given)), "gateway.json")
    assert re.search(f"limits.{name} is .* from .* to ", error.message)
    assert (error.where.file, error.where.field) == ("gateway.json", f"limits.{name}")


def test_hosts_of_images_are_names() -> None:
    check_config(config(image_hosts=("images.example.org", "*.example.org", "http://images.example.org:8080")))
    error = refuse("AW-OPS-13", config(image_hosts=("example.org", "10.0.0.1")), "gateway.json")
    assert "image_hosts[1] is '10.0.0.1'" in error.message and error.where.field == "image_hosts[1]"


@pytest.mark.parametrize("origin", ["*", "chat.example", "https://chat.example/", "https://Chat.example", "null"])
def test_an_origin_is_a_scheme_and_a_host(origin: str) -> None:
    check_config(config(cors_origins=("https://chat.example", "http://localhost:3000", "http://[::1]:3000")))
    error = refuse("AW-OPS-13", config(cors_origins=("https://chat.example", origin)), "gateway.json")
    assert error.where.field == "cors_origins[1]"


def test_limits_at_their_bounds_serve() -> None:
    for side in (0, 1):
        at: Any = {name: bounds[side] for name, bounds in LIMIT_BOUNDS.items()}
        check_config(config(limits=ClientLimits(**at)))
    assert set(LIMIT_BOUNDS) == set(ClientLimits.__struct_fields__)


@pytest.mark.parametrize("network", ["10.0.0.1/8", "10.0.0.0/33", "proxy.example.org", ""])
def test_a_trusted_proxy_is_a_network(network: str) -> None:
    error = refuse("AW-OPS-13", config(trusted_proxies=("10.0.0.0/8", "::1", network)))
    assert error.where.field == "trusted_proxies[2]" and network in error.message
    assert error.hint == "set trusted_proxies to addresses or networks, such as 10.0.0.0/8"


def test_no_endpoint_and_no_pool_twice() -> None:
    twice = config(endpoint(), endpoint())
    assert "repeats the model" in refuse("AW-OPS-13", twice).message
    assert "repeats the pool name" in refuse("AW-OPS-13", replace(twice, pools=twice.pools * 2)).message


def test_context_is_at_most_what_every_answering_pool_holds() -> None:
    small = endpoint(pool="small", context_tokens=100).pool
    whole = config(endpoint(fallback=("small",)), more=(small,))
    check_config(whole)
    spec = replace(whole.endpoints[0], context_tokens=101)
    assert "at most its pools' 100" in refuse("AW-OPS-13", replace(whole, endpoints=(spec,))).message


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
    assert "'q'" in refuse("AW-OPS-14", made).message


def test_reads_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "gateway.json"
    path.write_bytes(msgspec.json.encode(config(endpoint(), endpoint(workload="b"))))
    assert read_config(path) == config(endpoint(), endpoint(workload="b"))
    with pytest.raises(ArchwrightError) as caught:
        read_config(tmp_path / "none.json")
    assert caught.value.code == "AW-USE-01"


BROKEN = (b"", b"[]", b"{}", b'{"pools": [], "endpoints": [], "prot": 1}', b"\xff", b'{"endpoints": 3}')
LIMITS = {"connections": 0, "body_bytes": 0, "headers": 0, "request_s": 0, "sweep_s": 0, "stall_s": 1e9}
TRACES = ({"url": "localhost:4317"}, {"url": "http://c:4318", "share": 10})


@pytest.mark.parametrize(
    ("content", "code", "says"),
    [
        *((text, "AW-OPS-10", "") for text in BROKEN),
        *(({"limits": {name: value}}, "AW-OPS-13", f"limits.{name}") for name, value in LIMITS.items()),
        *(({"traces": value}, "AW-OPS-10", "$.traces") for value in TRACES),
        ({"workers": 0}, "AW-OPS-10", "$.workers"),
    ],
)
def test_an_invalid_file_is_refused_by_its_field(tmp_path: Path, content: Any, code: str, says: str) -> None:
    path = tmp_path / "gateway.json"
    whole = msgspec.to_builtins(config())
    path.write_bytes(content if type(content) is bytes else msgspec.json.encode({**whole, **content}))
    with pytest.raises(OperateError) as caught:
        read_config(path)
    assert caught.value.code == code
    assert str(path) in caught.value.lines() and says in caught.value.lines()


@pytest.mark.enable_socket
def test_port_zero_is_any_free_one_and_a_port_in_use_or_an_unknown_host_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with bind_listener("127.0.0.1", 0) as bound:
        assert bound.getsockname()[1] > 0
        with pytest.raises(OperateError) as caught:
            bind_listener("127.0.0.1", bound.getsockname()[1])
    assert caught.value.code == "AW-OPS-03"
    assert "127.0.0.1" in str(caught.value.where)
    unknown = Mock(side_effect=socket.gaierror(socket.EAI_NONAME, "Name or service not known"))
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
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
