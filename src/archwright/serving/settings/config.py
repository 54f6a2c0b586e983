"""Configuration of the gateway.

Design: every address except loopback needs TLS, because API keys and prompts are sent as plain text otherwise
(AW-OPS-11). Keys of engines are references, so the file never contains a secret. The whole table is checked before it
is used, so a running gateway keeps its table if a new one is invalid.
"""

import ipaddress
import itertools
import math
import re
import socket
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from archwright.contract.listener import ListenerSettings
from archwright.contract.record import Record, replace
from archwright.errors import ErrorLocation, OperateError, from_os_error
from archwright.policy.admission import Priority
from archwright.policy.cache_key import CachePolicy
from archwright.policy.image_hosts import parse_image_host
from archwright.policy.residency import (
    ANY_COUNTRY,
    RESIDENCY_BOUND_CLASSES,
    DataClass,
    PoolLocation,
    ResidencyPolicy,
    is_permitted_by_policy,
)
from archwright.policy.usage_limits import IMAGE_TOKENS
from archwright.serving.http.client_address import TrustedProxies
from archwright.serving.http.client_limits import ClientLimits, find_invalid_limit
from archwright.serving.settings.engine_fields import (
    ANTHROPIC,
    OPENAI,
    OWN,
    Rules,
    find_never_allowed,
    rules_of_engine,
    takes_cache_salt,
)
from archwright.serving.settings.engine_secrets import COMMAND_KEY
from archwright.serving.settings.prices import OtherPrices, Prices, build_prices, find_price_problem
from archwright.serving.settings.tls import create_tls_context

BACKLOG = 512
_ORIGIN = re.compile(r"https?://(?:\[[0-9a-f:]+\]|[a-z0-9.-]+)(?::[0-9]{1,5})?")
# Bounds the tokens of a request whose engine's context is not known.
UNKNOWN_CONTEXT_TOKENS = 1 << 20
ToolSide = Literal["engine", "gateway", "template"]


class EnginePoolSpec(Record):
    """Identical engines that serve one model. Each address runs `slots` requests at once.

    An address is "unix:NAME" (a socket of this home) or a URL ending in /v1. `model`: our name of the model;
    `engine_model`: the engines' name, if it differs. `version`: our model version (empty: the model itself); `adapter`:
    the version is an adapter that an engine can omit. `key`: reference to the engines' key (`engine_secrets`), sent in
    `key_header`. `query` follows every path. `exact_url`: paths follow the URL itself, which need not end in /v1.
    `place`: ISO code of the engines' country; empty means unknown, and for our own engines this site. Prices are per
    token; `other_prices`: beside those of input and output.
    `context_tokens` 0: unknown, so the gateway reads it from the engine. `vision`: the model accepts images, of
    at most `image_tokens` each. `tools`: the side that makes tool calls fit their schemas, the engine, or the gateway
    by a schema for the reply; "template": the engine, in the form of the model's chat template, if the model may
    choose, else the gateway. Empty: the engine for a URL, the gateway for our own engines. `engine`: the software
    behind a URL, which decides the request fields that pass (the rows of engine_fields.csv; without rows of its own,
    those of `openai`). `allow_fields`: more fields that pass. `start_s`: no engine runs, and the first request starts
    one within so many seconds; 0: the engines run. `responses`: the engines speak the Responses interface
    themselves."""

    name: str
    addresses: tuple[str, ...]
    model: str
    slots: int
    context_tokens: int
    protocol: Literal["openai", "anthropic"] = "openai"
    key: str = ""
    key_header: Literal["authorization", "api-key"] = "authorization"
    query: str = ""
    exact_url: bool = False
    engine_model: str = ""
    health_path: str = "/health"
    version: str = ""
    adapter: bool = False
    place: str = ""
    own: bool = True
    price_in_usd: float | None = None
    price_out_usd: float | None = None
    other_prices: OtherPrices = OtherPrices()
    first_token_s: float | None = None
    vision: bool = False
    image_tokens: int = IMAGE_TOKENS
    tools: Literal["", ToolSide] = ""
    engine: str = OPENAI
    allow_fields: tuple[str, ...] = ()
    start_s: float = 0.0
    responses: bool = False

    @property
    def strict(self) -> bool:
        """True for our own engines, which get only the fields that this release supports."""
        return self.addresses[0].startswith("unix:")

    @property
    def stops_when_left(self) -> bool:
        """True if our own engines end their work when a connection closes, so that the rest of a reply costs nothing.

        A provider, and an engine whose software nobody stated, may go on and bill it."""
        return self.strict or (self.own and self.engine != OPENAI)

    @property
    def field_rules(self) -> Rules:
        """The handling of each request field by this pool."""
        return rules_of_engine(self.field_engine, self.allow_fields)

    @property
    def field_engine(self) -> str:
        """The name of the engine in engine_fields.csv."""
        if self.strict:
            return OWN
        return ANTHROPIC if self.protocol == ANTHROPIC else self.engine

    @property
    def takes_cache_salt(self) -> bool:
        return takes_cache_salt(self.field_engine)

    @property
    def tool_side(self) -> ToolSide:
        return self.tools or ("gateway" if self.strict else "engine")

    @property
    def serves(self) -> str:
        """The version for headers and lineage; without a version the name of the model."""
        return self.version or self.model

    @property
    def prices(self) -> Prices | None:
        """The prices of its tokens; None if input or output has none."""
        if self.price_in_usd is None or self.price_out_usd is None:
            return None
        marks_caches = self.protocol == ANTHROPIC
        return build_prices(self.price_in_usd, self.price_out_usd, self.other_prices, marks_caches=marks_caches)


class WeightedTarget(Record):
    """A pool and its share of an endpoint's requests. Weight 0: used only if other targets fail."""

    pool: str
    weight: float = 1.0


class EndpointSpec(Record):
    """One workload and the pools that may serve it.

    A predict endpoint is served at /v1/predict/WORKLOAD and has `default_max_tokens` 1. `embeddings`, `rerank`,
    `transcriptions`: its engines answer these requests; without `generates` they answer no others.
    `targets` share the requests; `overflow` gets them while the targets are down or their wait exceeds
    `overflow_wait_s`; `fallback` if those fail.
    `context_tokens` 0: the smallest context of its pools. `data_class`: the strictest known class of its requests
    (empty: internal); callers and detection may raise it. `residency`: countries for that class and less strict ones
    (without a class, for all); `residency_of`: countries for stricter classes. Without countries, sensitive data stay
    on our own engines. `detect`: search texts for personal data; None: only if a pool is outside the residency.
    `wait_s`: reject a request that would wait longer for a slot. `shadow_share` of the requests also go to the pool
    `shadow`, for comparison. `cache`: the replies to cache. `aliases`: more names of the model for clients.
    `tuned_model`: the engines' name of a tuned variant of their model, which answers for the workload as our version
    `tuned_version`. It shares the slots of its pools with their model."""

    model: str
    workload: str
    targets: tuple[WeightedTarget, ...]
    aliases: tuple[str, ...] = ()
    default_max_tokens: int
    context_tokens: int = 0
    kind: Literal["text", "predict"] = "text"
    embeddings: bool = False
    rerank: bool = False
    transcriptions: bool = False
    generates: bool = True
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
    tuned_model: str = ""
    tuned_version: str = ""

    @property
    def pool(self) -> str:
        """The pool named in records until a pool has replied."""
        return self.targets[0].pool

    @property
    def serving_pools(self) -> tuple[str, ...]:
        """Every pool whose reply a client may get, in order."""
        return tuple(dict.fromkeys((*(target.pool for target in self.targets), *self.overflow, *self.fallback)))

    @property
    def pools(self) -> tuple[str, ...]:
        """Every pool that may get a request's text."""
        return tuple(dict.fromkeys((*self.serving_pools, self.shadow))) if self.shadow else self.serving_pools

    @property
    def residency_policy(self) -> ResidencyPolicy:
        return ResidencyPolicy(self.data_class, self.residency, self.residency_of)


class Endpoint(EndpointSpec):
    """An endpoint with the abilities that all its pools share, such as `responses`.

    `strict`: at least one pool has our own engines. `stops`: all pools have engines that stop when the gateway
    disconnects.
    `protocol`: empty if the pools' protocols differ. `image_hosts`: as
    in the gateway's settings. `serves`: the version of the first target. `prices`: the highest of the pools, None if a
    pool has no price. `charged`: at least one pool has a price. `long_context`: each pool with a price has prices of
    long prompts. `rules`: the request fields that pass, by interface.
    `input_bound`: the largest configured context, which bounds the input; a context that an engine states bounds
    nothing that is charged."""

    strict: bool = True
    stops: bool = False
    protocol: Literal["openai", "anthropic", ""] = "openai"
    vision: bool = False
    image_tokens: int = IMAGE_TOKENS
    image_hosts: tuple[str, ...] = ()
    serves: str = ""
    input_bound: int = UNKNOWN_CONTEXT_TOKENS
    rules: Rules = {}
    charged: bool = False
    long_context: bool = False
    prices: Prices | None = None
    responses: bool = False


class GatewayConfig(ListenerSettings):
    """The settings of one gateway.

    `store_url`: the database, or `env:NAME` for its variable; empty: the store of the home. `workers`: processes that
    share the requests and each engine's slots. A running gateway applies `pools` and `endpoints` when the file's
    `revision` changes, and host, ports and store only on a restart. It applies the other settings on a reload."""

    pools: tuple[EnginePoolSpec, ...]
    endpoints: tuple[EndpointSpec, ...]
    store_url: str = ""
    plan_digest: str = ""
    revision: int = 0
    limits: ClientLimits = ClientLimits()
    workers: Annotated[int, msgspec.Meta(ge=1)] = 1

    @property
    def url(self) -> str:
        return f"{self.root_url}/v1"


def read_config(path: Path, *, opens_tls_files: bool = True) -> GatewayConfig:
    """Read and check a configuration file. Raises OperateError (AW-OPS-10 to AW-OPS-14).

    `opens_tls_files` False: for a process that needs none of them, which may be half renewed."""
    try:
        config = msgspec.json.decode(path.read_bytes(), type=GatewayConfig)
    except OSError as error:
        raise from_os_error(error) from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        hint = "start the gateway with `archwright up` or `archwright serve`, which write this file"
        message = f"not a gateway configuration: {error}"
        raise _invalid("AW-OPS-10", message, hint, str(path)) from error
    check_config(config, str(path), opens_tls_files=opens_tls_files)
    return config


def check_config(config: GatewayConfig, file: str = "", *, opens_tls_files: bool = True) -> None:
    """Raise OperateError if required TLS is missing or the configuration cannot serve requests."""
    if not is_loopback(config.host) and not (config.tls_certificate and config.tls_key):
        hint = "set tls_certificate and tls_key, or listen on 127.0.0.1"
        raise _invalid("AW-OPS-11", f"the gateway cannot listen on {config.host} without TLS", hint, file, "host")
    if bool(config.tls_certificate) != bool(config.tls_key):
        hint = "set both tls_certificate and tls_key, or neither"
        raise _invalid("AW-OPS-12", "only one of tls_certificate and tls_key is set", hint, file, "tls_key")
    if config.tls_certificate and config.tls_key and opens_tls_files:
        create_tls_context(config.tls_certificate, config.tls_key)
    name, problem = find_invalid_limit(config.limits)
    _raise_problem(problem, f"limits.{name}", file)
    for index, network in enumerate(config.trusted_proxies):
        try:
            TrustedProxies([network])
        except ValueError as error:
            hint = "set trusted_proxies to addresses or networks, such as 10.0.0.0/8"
            message = f"a trusted proxy is not a network: {error}"
            raise _invalid("AW-OPS-13", message, hint, file, f"trusted_proxies[{index}]") from error
    for index, host in enumerate(config.image_hosts):
        problem = f"is {host!r}; write a host such as images.example.org, *.example.org or http://images.example.org"
        _raise_problem("" if parse_image_host(host) else problem, f"image_hosts[{index}]", file)
    for index, origin in enumerate(config.cors_origins):
        problem = f"is {origin!r}; write a scheme, a host and the port if any, such as https://chat.example.org"
        _raise_problem("" if _ORIGIN.fullmatch(origin) else problem, f"cors_origins[{index}]", file)
    check_table(config.pools, config.endpoints, file)


def _invalid(code: str, message: str, hint: str, file: str, field: str | None = None) -> OperateError:
    return OperateError(code, message, where=ErrorLocation(file or None, None, field), hint=hint)


def is_loopback(host: str) -> bool:
    """True if only this machine can reach `host`. Names other than localhost count as reachable."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def split_among_workers(config: GatewayConfig) -> GatewayConfig:
    pools = tuple(replace(spec, slots=-(-spec.slots // config.workers)) for spec in config.pools)
    return replace(config, pools=pools)


def bind_listener(host: str, port: int) -> socket.socket:
    """Open a listening socket. Raises OperateError, for example AW-OPS-03 for a port in use."""
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = addresses[0]
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
    """Raise OperateError AW-OPS-13 for an unusable table, AW-OPS-14 for a pool outside a residency."""
    known: dict[str, EnginePoolSpec] = {}
    for index, pool in enumerate(pools):
        problem = f"repeats the pool name {pool.name!r}" if pool.name in known else _find_pool_problem(pool)
        _raise_problem(problem, f"pools[{index}]", file)
        known[pool.name] = pool
    seen: set[tuple[str, str, str]] = set()
    uses = Counter(name for spec in endpoints for name in {spec.model, spec.workload, *spec.aliases})
    for index, spec in enumerate(endpoints):
        field, name = f"endpoints[{index}]", (spec.kind, spec.model, spec.workload)
        alias = next((alias for alias in spec.aliases if not alias or uses[alias] > 1), None)
        problem = "" if alias is None else f"has {alias!r} in aliases, which is empty or names another model"
        problem = f"repeats the model {spec.model!r} for the workload {spec.workload!r}" if name in seen else problem
        problem = problem or _find_targets_problem(spec, known) or _find_endpoint_problem(spec, known)
        _raise_problem(problem, field, file)
        seen.add(name)
        data_class: DataClass = spec.data_class or "internal"
        for used in spec.pools if data_class in RESIDENCY_BOUND_CLASSES else ():
            if is_outside_residency(spec, known[used], data_class):
                inside = ", ".join(spec.residency) or "our own engines at this site"
                message = f"{field} has {data_class} data, but the pool {used!r} is outside its residency ({inside})"
                hint = "remove the pool, set its place, or add its country to residency"
                raise _invalid("AW-OPS-14", message, hint, file, field)


def find_context(pools: Iterable[EnginePoolSpec]) -> int:
    """Return the smallest known context of the pools."""
    return min((one.context_tokens for one in pools if one.context_tokens), default=UNKNOWN_CONTEXT_TOKENS)


def is_outside_residency(spec: EndpointSpec, pool: EnginePoolSpec, data_class: DataClass = "personal") -> bool:
    return not is_permitted_by_policy(data_class, PoolLocation(pool.place, pool.own), spec.residency_policy)


def _raise_problem(problem: str, field: str, file: str) -> None:
    if problem:
        hint = "correct the field, or write the file again with `archwright up` or `archwright serve`"
        raise _invalid("AW-OPS-13", f"{field} {problem}", hint, file, field)


_KEY = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*|file:.+|" + COMMAND_KEY.pattern)
_QUERY = re.compile(r"[A-Za-z0-9=&._-]*")
_COUNTRY = re.compile(r"[A-Z]{2}")


def _find_pool_problem(pool: EnginePoolSpec) -> str:
    if not pool.addresses:
        return "has no address"
    if min(pool.slots, pool.image_tokens, pool.context_tokens + (not pool.strict)) < 1:
        return "must have slots and image_tokens of at least 1, and context_tokens of at least 1 (0 behind a URL)"
    if pool.allow_fields and pool.strict:
        return "has allow_fields, but its engines are our own; they get only the fields that this release supports"
    never = find_never_allowed(pool.allow_fields)
    if never:
        return f"has {never!r} in allow_fields, which would break limits or isolation; remove it"
    if pool.key and not _KEY.fullmatch(pool.key):
        return "must have a key of the form env:NAME, file:PATH or command:[...]; do not write the key into this file"
    if not _QUERY.fullmatch(pool.query):
        return f"must have a query of letters, digits and =&._-, such as api-version=2024-10-21, not {pool.query!r}"
    if any("@" in urlsplit(address).netloc for address in pool.addresses):
        return "has an address that contains a user or password; set key to env:NAME or file:PATH instead"
    if pool.place and not _COUNTRY.fullmatch(pool.place):
        return f"must have a place of two letters (ISO country code), not {pool.place!r}"
    if not 0 <= (pool.first_token_s or 0.0) < math.inf:
        return "must have a first_token_s of at least 0"
    return find_price_problem((pool.price_in_usd, pool.price_out_usd), pool.other_prices)


def _find_targets_problem(spec: EndpointSpec, known: Mapping[str, EnginePoolSpec]) -> str:
    if not spec.targets:
        return "has no target"
    missing = next((name for name in spec.pools if name not in known), None)
    if missing is not None:
        return f"names the pool {missing!r}, which is not in pools"
    weights = [target.weight for target in spec.targets]
    if not all(0 <= weight < math.inf for weight in weights) or not sum(weights) > 0:
        return "must have weights of at least 0, and one weight above 0"
    if len(spec.serving_pools) < len(spec.targets) + len(spec.overflow) + len(spec.fallback):
        return "names a pool twice in targets, overflow and fallback"
    if spec.shadow in spec.serving_pools:
        return f"has the shadow {spec.shadow!r}, which already serves the endpoint; name another pool"
    if spec.shadow and known[spec.shadow].protocol != "openai":
        return f"has the shadow {spec.shadow!r}, whose protocol is not openai; only openai shadows can be compared"
    return ""


def _find_endpoint_problem(spec: EndpointSpec, known: Mapping[str, EnginePoolSpec]) -> str:
    context = find_context(known[name] for name in spec.serving_pools)
    if spec.default_max_tokens < 1 or not 0 <= spec.context_tokens <= context:
        return f"must have default_max_tokens of at least 1 and context_tokens of at most its pools' {context}"
    if not 0 <= spec.shadow_share <= 1 or bool(spec.shadow) != (spec.shadow_share > 0):
        return "must have a shadow and a shadow_share above 0 and at most 1, or neither"
    if not spec.overflow_wait_s >= 0 or not (spec.wait_s is None or spec.wait_s > 0):
        return "must have overflow_wait_s of at least 0 and wait_s above 0"
    countries = itertools.chain(spec.residency, *spec.residency_of.values())
    wrong = next((code for code in countries if code != ANY_COUNTRY and not _COUNTRY.fullmatch(code)), None)
    if wrong is not None:
        return f"must have residency as ISO country codes of two letters or {ANY_COUNTRY!r}, not {wrong!r}"
    return _find_tuned_problem(spec)


def _find_tuned_problem(spec: EndpointSpec) -> str:
    if bool(spec.tuned_model) != bool(spec.tuned_version):
        return "must have a tuned_model with its tuned_version, or neither"
    if spec.tuned_model and (spec.embeddings or spec.rerank):
        return "has a tuned_model, which only generates text"
    return ""
