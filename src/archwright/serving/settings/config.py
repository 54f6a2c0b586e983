"""The configuration of a gateway process. Any address but loopback needs TLS, also with API keys (AW-OPS-11)."""

from __future__ import annotations

import ipaddress
import itertools
import math
import re
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from archwright.contract.record import Record, replace
from archwright.errors import ErrorLocation, OperateError, from_os_error
from archwright.monitor.trace_exporter import TraceSpec
from archwright.policy.admission import Priority
from archwright.policy.cache_key import CachePolicy
from archwright.policy.residency import (
    ANY_COUNTRY,
    RESIDENCY_BOUND_CLASSES,
    DataClass,
    PoolLocation,
    ResidencyPolicy,
    is_permitted_by_policy,
)
from archwright.policy.usage_limits import IMAGE_TOKENS
from archwright.serving.http.client_limits import ClientLimits, find_invalid_limit

BACKLOG = 512
# USD per token of input and of answer; None if unknown.
Prices = tuple[float | None, float | None]


class EnginePoolSpec(Record):
    """Equal engines that hold one model. `slots` requests run at once at each address.

    An address is "unix:NAME" (a socket of this home) or a URL ending in /v1. `model` is our name of the model,
    `engine_model` the engines' if it differs, `version` our model version (empty: the model itself), `adapter` if that
    version is an adapter which an engine can leave out. `key` refers to the engines' key, `env:NAME` or `file:PATH`.
    `place` is the ISO code of their country; empty is unknown, for our own engines here. Prices are per token.
    `vision`: the model takes images, each of at most `image_tokens`. `tools`: who makes tool calls fit their schemas,
    the engine or the gateway by a schema for the reply; empty: the engine behind a URL, the gateway for our own.
    """

    name: str
    addresses: tuple[str, ...]
    model: str
    slots: int
    context_tokens: int
    protocol: Literal["openai", "anthropic"] = "openai"
    key: str = ""
    engine_model: str = ""
    health_path: str = "/health"
    version: str = ""
    adapter: bool = False
    place: str = ""
    own: bool = True
    price_in_usd: float | None = None
    price_out_usd: float | None = None
    first_token_s: float | None = None
    vision: bool = False
    image_tokens: int = IMAGE_TOKENS
    tools: Literal["", "engine", "gateway"] = ""

    @property
    def strict(self) -> bool:
        """True for our own engines, which accept only the fields that this release knows."""
        return self.addresses[0].startswith("unix:")

    @property
    def enforces_tools(self) -> bool:
        return self.tools == "engine" or (not self.tools and not self.strict)

    @property
    def serves(self) -> str:
        """The version for headers and lineage, or the name of the plan's model."""
        return self.version or self.model

    @property
    def prices(self) -> Prices:
        return self.price_in_usd, self.price_out_usd


class WeightedTarget(Record):
    """A pool and its share of an endpoint's requests; weight 0: only if others fail."""

    pool: str
    weight: float = 1.0


class EndpointSpec(Record):
    """One workload and the pools that may serve it. A predict endpoint answers at /v1/predict/WORKLOAD and has
    `default_max_tokens` 1.

    `targets` share the requests; `overflow` takes them while the wait at the targets would exceed `overflow_wait_s` or
    they are down; `fallback` if those fail. `context_tokens` 0: the smallest of its pools. `data_class` is the
    strictest known class of its requests (empty: internal); callers and detection may raise it. `residency`: the
    countries for that class and milder ones (without a class, for all); `residency_of`: for stricter classes; without
    countries sensitive data stay at our own engines. `detect`: search texts for personal data; None: only if a pool is
    outside the residency. `wait_s`: refuse a request that would wait longer for a slot. `shadow_share` of the requests
    also go to the pool `shadow`, for comparison. `cache`: which answers are cached.
    """

    model: str
    workload: str
    targets: tuple[WeightedTarget, ...]
    default_max_tokens: int
    context_tokens: int = 0
    kind: Literal["text", "predict"] = "text"
    embeddings: bool = False
    priority: Priority = "normal"
    data_class: DataClass | Literal[""] = ""
    residency: tuple[str, ...] = ()
    residency_of: dict[DataClass, tuple[str, ...]] = {}
    detect: bool | None = None
    overflow: tuple[str, ...] = ()
    overflow_wait_s: float = 1.0
    fallback: tuple[str, ...] = ()
    wait_s: float | None = None
    shadow: str = ""
    shadow_share: float = 0.0
    cache: CachePolicy = "off"

    @property
    def pool(self) -> str:
        """The pool named in records before one has answered."""
        return self.targets[0].pool

    @property
    def serving_pools(self) -> tuple[str, ...]:
        """Every pool whose answer a client may get, in order."""
        return tuple(dict.fromkeys((*(target.pool for target in self.targets), *self.overflow, *self.fallback)))

    @property
    def pools(self) -> tuple[str, ...]:
        """Every pool a request's text may reach."""
        return tuple(dict.fromkeys((*self.serving_pools, self.shadow))) if self.shadow else self.serving_pools

    @property
    def residency_policy(self) -> ResidencyPolicy:
        return ResidencyPolicy(self.data_class, self.residency, self.residency_of)


class Endpoint(EndpointSpec):
    """An endpoint with the common abilities of all its pools. `strict`: one is our own engine. `protocol` is empty if
    they differ. `serves`: the version of its first target. Prices are the highest of the pools, None if one has none;
    `charged`: one has a price."""

    strict: bool = True
    protocol: Literal["openai", "anthropic", ""] = "openai"
    vision: bool = False
    image_tokens: int = IMAGE_TOKENS
    serves: str = ""
    charged: bool = False
    price_in_usd: float | None = None
    price_out_usd: float | None = None

    @property
    def prices(self) -> Prices:
        return self.price_in_usd, self.price_out_usd


class GatewayConfig(Record):
    """Port 0: any free one. `store_url` empty: the store of the home. `workers` processes share the work and each
    engine's slots. Administration listens on `admin_port` of the same host, if set. A running gateway applies `pools`
    and `endpoints` when the file's `revision` changes, the rest on a reload, but host, ports and store on a restart."""

    pools: tuple[EnginePoolSpec, ...]
    endpoints: tuple[EndpointSpec, ...]
    host: str = "127.0.0.1"
    port: int = 8470
    tls_certificate: str | None = None
    tls_key: str | None = None
    store_url: str = ""
    plan_digest: str = ""
    revision: int = 0
    limits: ClientLimits = ClientLimits()
    traces: TraceSpec | None = None
    workers: Annotated[int, msgspec.Meta(ge=1)] = 1
    admin_port: int | None = None

    @property
    def url(self) -> str:
        scheme = "https" if self.tls_certificate else "http"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}/v1"


def read_config(path: Path) -> GatewayConfig:
    """The configuration in a file, checked. Raises OperateError (AW-OPS-10 to AW-OPS-14)."""
    try:
        config = msgspec.json.decode(path.read_bytes(), type=GatewayConfig)
    except OSError as error:
        raise from_os_error(error) from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        hint = "`archwright up` writes this file; start the gateway through it"
        message = f"not a gateway configuration: {error}"
        raise OperateError("AW-OPS-10", message, where=ErrorLocation(str(path)), hint=hint) from error
    check_config(config, str(path))
    return config


def check_config(config: GatewayConfig, file: str = "") -> None:
    """Raises OperateError for a configuration without the required TLS or that could not serve at all."""
    if not is_loopback(config.host) and not (config.tls_certificate and config.tls_key):
        where = ErrorLocation(file or None, None, "host")
        hint = "set tls_certificate and tls_key, or listen on 127.0.0.1"
        raise OperateError("AW-OPS-11", f"refuses to listen on {config.host} without TLS", where=where, hint=hint)
    if bool(config.tls_certificate) != bool(config.tls_key):
        where = ErrorLocation(file or None, None, "tls_key")
        hint = "set both tls_certificate and tls_key, or neither"
        raise OperateError("AW-OPS-12", "half of a TLS pair", where=where, hint=hint)
    if config.tls_certificate and config.tls_key:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(config.tls_certificate, config.tls_key)
        except OSError as error:  # ssl.SSLError is one
            where = ErrorLocation(config.tls_certificate)
            hint = "give a PEM certificate (chain) and its unencrypted private key"
            message = f"cannot use the TLS pair: {error.strerror or str(error)}"
            raise OperateError("AW-OPS-12", message, where=where, hint=hint) from error
    name, problem = find_invalid_limit(config.limits)
    _raise_problem(problem, f"limits.{name}", file)
    check_table(config.pools, config.endpoints, file)


def is_loopback(host: str) -> bool:
    """True if only this machine can reach `host`; False for names other than localhost."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def split_among_workers(config: GatewayConfig) -> GatewayConfig:
    pools = tuple(replace(spec, slots=-(-spec.slots // config.workers)) for spec in config.pools)
    return replace(config, pools=pools)


def bind_listener(host: str, port: int) -> socket.socket:
    """A listening socket. Raises OperateError, such as AW-OPS-03 for a port in use."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            bound.listen(BACKLOG)
        except OSError:
            bound.close()
            raise
    except OSError as error:
        raise from_os_error(OSError(error.errno, error.strerror or str(error), f"{host}:{port}")) from error
    bound.setblocking(False)
    return bound


def check_table(pools: tuple[EnginePoolSpec, ...], endpoints: tuple[EndpointSpec, ...], file: str = "") -> None:
    """Raises OperateError AW-OPS-13 for what could not serve, AW-OPS-14 if data would go where its class forbids it."""
    known: dict[str, EnginePoolSpec] = {}
    for index, pool in enumerate(pools):
        problem = f"is a second pool {pool.name!r}" if pool.name in known else _find_pool_problem(pool)
        _raise_problem(problem, f"pools[{index}]", file)
        known[pool.name] = pool
    seen: set[tuple[str, str, str]] = set()
    for index, spec in enumerate(endpoints):
        field = f"endpoints[{index}]"
        name = (spec.kind, spec.model, spec.workload)
        problem = f"serves model {spec.model!r} for workload {spec.workload!r} a second time" if name in seen else ""
        problem = problem or _find_targets_problem(spec, known) or _find_endpoint_problem(spec, known)
        _raise_problem(problem, field, file)
        seen.add(name)
        _check_residency(spec, known, field, file)


def is_outside_residency(spec: EndpointSpec, pool: EnginePoolSpec, data_class: DataClass = "personal") -> bool:
    return not is_permitted_by_policy(data_class, PoolLocation(pool.place, pool.own), spec.residency_policy)


def _raise_problem(problem: str, field: str, file: str) -> None:
    if problem:
        hint = "correct the file; `archwright up` and `archwright serve` write it from a plan and from options"
        raise OperateError("AW-OPS-13", f"{field} {problem}", where=ErrorLocation(file or None, None, field), hint=hint)


_KEY = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*|file:.+")
_COUNTRY = re.compile(r"[A-Z]{2}")


def _find_pool_problem(pool: EnginePoolSpec) -> str:
    if not pool.addresses:
        return "has no address"
    if min(pool.slots, pool.context_tokens, pool.image_tokens) < 1:
        return "needs slots, context_tokens and image_tokens of at least 1"
    if pool.key and not _KEY.fullmatch(pool.key):
        return "needs key as env:NAME or file:PATH; a key itself has no place in this file"
    if any("@" in urlsplit(address).netloc for address in pool.addresses):
        return "has an address with a user or password in it; give a key as env:NAME or file:PATH"
    if pool.place and not _COUNTRY.fullmatch(pool.place):
        return f"needs place as the two letters of a country, not {pool.place!r}"
    prices = (pool.price_in_usd or 0.0, pool.price_out_usd or 0.0)  # more is a slip, and too much for the accounts
    if not all(0 <= usd <= 1 for usd in prices) or not 0 <= (pool.first_token_s or 0.0) < math.inf:
        return "needs prices of 0 to 1 USD a token and times of at least 0"
    return ""


def _find_targets_problem(spec: EndpointSpec, known: Mapping[str, EnginePoolSpec]) -> str:
    if not spec.targets:
        return "has no target"
    missing = next((name for name in spec.pools if name not in known), None)
    if missing is not None:
        return f"names the pool {missing!r}, which there is not"
    weights = [target.weight for target in spec.targets]
    if not all(0 <= weight < math.inf for weight in weights) or not sum(weights) > 0:
        return "needs weights of at least 0, and one above it"
    if len(spec.serving_pools) < len(spec.targets) + len(spec.overflow) + len(spec.fallback):
        return "names a pool twice among targets, overflow and fallback"
    if spec.shadow in spec.serving_pools:
        return f"names {spec.shadow!r} as shadow of itself"
    if spec.shadow and known[spec.shadow].protocol != "openai":
        return f"names {spec.shadow!r} as shadow, which does not speak OpenAI's protocol: nothing to compare with yet"
    return ""


def _find_endpoint_problem(spec: EndpointSpec, known: Mapping[str, EnginePoolSpec]) -> str:
    context = min(known[name].context_tokens for name in spec.serving_pools)
    if spec.default_max_tokens < 1 or not 0 <= spec.context_tokens <= context:
        return f"needs default_max_tokens of at least 1 and context_tokens of at most its pools' {context}"
    if not 0 <= spec.shadow_share <= 1 or bool(spec.shadow) != (spec.shadow_share > 0):
        return "needs a shadow and a shadow_share above 0, at most 1, or neither"
    if not spec.overflow_wait_s >= 0 or not (spec.wait_s is None or spec.wait_s > 0):
        return "needs overflow_wait_s of at least 0 and wait_s above it"
    words = itertools.chain(spec.residency, *spec.residency_of.values())
    wrong = next((word for word in words if word != ANY_COUNTRY and not _COUNTRY.fullmatch(word)), None)
    if wrong is not None:
        return f"needs residency as countries of two letters or {ANY_COUNTRY!r}, not {wrong!r}"
    return ""


def _check_residency(spec: EndpointSpec, known: Mapping[str, EnginePoolSpec], field: str, file: str) -> None:
    data_class: DataClass = spec.data_class or "internal"
    for name in spec.pools if data_class in RESIDENCY_BOUND_CLASSES else ():
        if is_outside_residency(spec, known[name], data_class):
            inside = ", ".join(spec.residency) or "our own engines here"
            message = f"{field} carries {data_class} data, and the pool {name!r} lies outside its residency ({inside})"
            hint = "take the pool out, say its place, or widen the residency"
            raise OperateError("AW-OPS-14", message, where=ErrorLocation(file or None, None, field), hint=hint)
