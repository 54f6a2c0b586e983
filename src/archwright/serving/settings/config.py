"""What a gateway process is told: where it listens, what it serves, how much it bears.

Decides that keys alone do not make an open port: any address but loopback needs TLS as well, and a gateway that
cannot have it refuses to start (AW-OPS-11) rather than to serve in the clear.
"""

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
# USD per token of input and of answer; None where unknown.
Prices = tuple[float | None, float | None]


class EnginePoolSpec(Record):
    """Equal engines that hold one model. `slots` requests run at once at each address.

    An address is "unix:NAME" (a socket of this home) or a URL ending in /v1. `model` is our name for what they hold,
    `engine_model` theirs where it differs, `version` a model version of ours (empty: the model itself), `adapter`
    whether that version is an adapter which an engine can leave out of a request. `key` says where the engines' own
    key is, `env:NAME` or `file:PATH`, never the key itself. `place` is the ISO code of the country where they stand;
    empty means nobody said so, which for engines of our own means here. Prices are per token, None where unknown.
    `protocol` is what the addresses speak, `vision` whether the model takes images, `image_tokens` how many tokens one
    becomes at most. `tools` says who sees to it that a
    tool call fits its schema: the engine itself, or the gateway by a schema for the whole reply; empty means the engine
    behind a URL, the gateway before an engine of our own, since a model's template may know nothing of tools.
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
        """Whether the engine is one of this release's: it takes what that knows and nothing else."""
        return self.addresses[0].startswith("unix:")

    @property
    def enforces_tools(self) -> bool:
        return self.tools == "engine" or (not self.tools and not self.strict)

    @property
    def serves(self) -> str:
        """The version for headers and lineage: the plan's own model goes by its name."""
        return self.version or self.model

    @property
    def prices(self) -> Prices:
        return self.price_in_usd, self.price_out_usd


class WeightedTarget(Record):
    """A pool and its weight among an endpoint's targets: its share of the requests. 0: only when others fail."""

    pool: str
    weight: float = 1.0


class EndpointSpec(Record):
    """One workload and the pools that may serve it. A predict endpoint answers at /v1/predict/WORKLOAD; what only
    text has (`default_max_tokens`) is 1 there.

    `targets` share the requests; `overflow` takes them while the wait at the targets would exceed `overflow_wait_s`,
    or they are down; `fallback` only when those before have failed. `context_tokens` 0: as the smallest of its pools
    holds. `data_class` is the strictest of what its requests may carry as far as is known; empty: internal, and what
    callers say or detection finds may raise it. `residency` holds the countries for that class and milder ones (where
    none is given, for all); none: sensitive data stay at our own engines here. `residency_of`: those for stricter
    classes, which else stay at our own engines. `detect`: look for personal data in the text; None: only where it
    matters, that is where a pool lies outside the residency. `wait_s`: a request that would wait longer for a slot is
    refused at once. `shadow_share` of the requests are asked of the pool `shadow` as well, for comparison. `cache`:
    which answers may be given again.
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
        """The pool that stands for the endpoint in records before one has answered."""
        return self.targets[0].pool

    @property
    def serving_pools(self) -> tuple[str, ...]:
        """Every pool whose answer a client may get, in the order they come in question."""
        return tuple(dict.fromkeys((*(target.pool for target in self.targets), *self.overflow, *self.fallback)))

    @property
    def pools(self) -> tuple[str, ...]:
        """Every pool a request's text may reach."""
        return tuple(dict.fromkeys((*self.serving_pools, self.shadow))) if self.shadow else self.serving_pools

    @property
    def residency_policy(self) -> ResidencyPolicy:
        return ResidencyPolicy(self.data_class, self.residency, self.residency_of)


class Endpoint(EndpointSpec):
    """An endpoint with what all its pools can do: what is asked of it must suit each of them. `strict`: one is an
    engine of this release. `protocol` is empty where they speak different ones. `serves` is what its first target
    holds. Prices are those of the dearest pool, None where one has none; `charged`: one pool has a price."""

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
    """Port 0 means any free one. `store_url` empty means the store of the home.

    `workers` processes share the work, and each has its part of an engine's slots. The interface for administration
    listens on `admin_port` of the same host; None: nowhere. A running gateway takes `pools` and `endpoints` of a file
    whose `revision` changed; what else changed holds after a reload, but for host, ports and store: these need a new
    start.
    """

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
        raise OperateError(
            "AW-OPS-10", f"not a gateway configuration: {error}", where=_file_location(path), hint=hint
        ) from error
    check_config(config, str(path))
    return config


def check_config(config: GatewayConfig, file: str = "") -> None:
    """Refuses a configuration that would serve in the clear or could not serve at all."""
    where = ErrorLocation(file or None, None, "host")
    if not is_loopback(config.host) and not (config.tls_certificate and config.tls_key):
        raise OperateError(
            "AW-OPS-11",
            f"refuses to listen on {config.host} without TLS",
            where=where,
            hint="set tls_certificate and tls_key, or listen on 127.0.0.1",
        )
    if bool(config.tls_certificate) != bool(config.tls_key):
        hint = "set both tls_certificate and tls_key, or neither"
        raise OperateError(
            "AW-OPS-12", "half of a TLS pair", where=ErrorLocation(file or None, None, "tls_key"), hint=hint
        )
    if config.tls_certificate and config.tls_key:
        _check_pair(config.tls_certificate, config.tls_key)
    name, problem = find_invalid_limit(config.limits)
    _raise_problem(problem, f"limits.{name}", file)
    check_table(config.pools, config.endpoints, file)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`. A name other than localhost may resolve to anything: no."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def split_among_workers(config: GatewayConfig) -> GatewayConfig:
    """As one of its workers serves it."""
    pools = tuple(replace(spec, slots=-(-spec.slots // config.workers)) for spec in config.pools)
    return replace(config, pools=pools)


def bind_listener(host: str, port: int) -> socket.socket:
    """The socket, which takes connections from now on: before anything else starts, so that a port in use is said at
    once (AW-OPS-03)."""
    where = f"{host}:{port}"
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
        raise from_os_error(OSError(error.errno, error.strerror or str(error), where)) from error
    bound.setblocking(False)
    return bound


def _file_location(path: Path) -> ErrorLocation:
    return ErrorLocation(str(path))


def _check_pair(certificate: str, key: str) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    except OSError as error:  # ssl.SSLError is one
        hint = "give a PEM certificate (chain) and its unencrypted private key"
        reason = error.strerror or str(error)
        raise OperateError(
            "AW-OPS-12", f"cannot use the TLS pair: {reason}", where=ErrorLocation(certificate), hint=hint
        ) from error


def check_table(pools: tuple[EnginePoolSpec, ...], endpoints: tuple[EndpointSpec, ...], file: str = "") -> None:
    """Refuses pools and endpoints that could not serve (AW-OPS-13), or that lead data where its class forbids it to
    go (AW-OPS-14): such a pool would never be asked, which is better said now."""
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
        _raise_problem(
            problem or _find_targets_problem(spec, known) or _find_endpoint_problem(spec, known), field, file
        )
        seen.add(name)
        _check_residency(spec, known, field, file)


def is_outside_residency(spec: EndpointSpec, pool: EnginePoolSpec, data_class: DataClass = "personal") -> bool:
    """Whether data of the class may not go from the endpoint to the pool."""
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
            raise OperateError(
                "AW-OPS-14",
                f"{field} carries {data_class} data, and the pool {name!r} lies outside its residency ({inside})",
                where=ErrorLocation(file or None, None, field),
                hint="take the pool out, say its place, or widen the residency",
            )
