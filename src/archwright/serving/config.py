"""What a gateway process is told: where it listens, what it serves, how much it bears.

Decides that keys alone do not make an open port: any address but loopback needs TLS as well, and a gateway that
cannot have it refuses to start (AW-OPS-11) rather than to serve in the clear.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
from pathlib import Path
from typing import Literal

import msgspec

from archwright.contract.record import Record, replace
from archwright.errors import OperateError, Where, from_os_error
from archwright.monitor.traces import TraceSpec
from archwright.policy.caching import Policy

BACKLOG = 512


class EndpointSpec(Record):
    """One workload served by one pool. `slots` requests run at once at each address.

    `version` is the model version served (empty: the plan's own model). A predict endpoint answers at
    /v1/predict/WORKLOAD; what only text has (`context_tokens`, `default_max_tokens`) is 1 there.
    An address is "unix:NAME" (a socket of this home) or a URL ending in /v1. `key_env` names the variable that
    holds the engine's own key; `engine_model` is the model's name there, when it differs from ours. `protocol` is what
    the addresses speak, `vision` whether the model takes images. `tools` says who sees to it that a tool call fits its
    schema: the engine itself, or the gateway by a schema for the whole reply; empty means the engine behind a URL, the
    gateway before an engine of our own, since a model's template may know nothing of tools. Prices are USD per token,
    None where unknown. `cache` says which answers may be given again.
    """

    model: str
    workload: str
    pool: str
    addresses: tuple[str, ...]
    default_max_tokens: int
    context_tokens: int
    slots: int
    key_env: str | None = None
    embeddings: bool = False
    engine_model: str | None = None
    health_path: str = "/health"
    version: str = ""
    kind: Literal["text", "predict"] = "text"
    protocol: Literal["openai", "anthropic"] = "openai"
    vision: bool = False
    tools: Literal["", "engine", "gateway"] = ""
    price_in_usd: float | None = None
    price_out_usd: float | None = None
    cache: Policy = "off"

    @property
    def own(self) -> bool:
        """Whether the engine is one of ours: it takes what this release knows and nothing else."""
        return self.addresses[0].startswith("unix:")

    @property
    def enforces_tools(self) -> bool:
        return self.tools == "engine" or (not self.tools and not self.own)

    @property
    def serves(self) -> str:
        """The version for headers and lineage: the plan's own model goes by its name."""
        return self.version or self.model

    @property
    def tuned(self) -> bool:
        """Whether an adapter lies over the plan's model."""
        return self.kind == "text" and self.serves != self.model


class Limits(Record):
    """What one client may ask of the process, and for how long; none is ever without end. `chunks` are those of a
    chunked body; `connections_per_address` are of one client's address, which may be a proxy's."""

    body_bytes: int = 4 * 1024 * 1024
    header_bytes: int = 32 * 1024
    headers: int = 100
    chunks: int = 16_384
    connections: int = 1024
    connections_per_address: int = 512
    headers_s: float = 10.0
    body_s: float = 30.0
    first_token_s: float = 300.0
    stall_s: float = 120.0
    client_stall_s: float = 30.0
    request_s: float = 600.0
    drain_s: float = 10.0
    sweep_s: float = 0.25
    health_s: float = 1.0


class GatewayConfig(Record):
    """Port 0 means any free one. `store_url` empty means the store of the home.

    `workers` processes share the work, and each has its part of an engine's slots. The interface for administration
    listens on `admin_port` of the same host; None: nowhere. A running gateway takes `endpoints` of a file whose
    `revision` changed; what else changed holds after a reload, but for host, ports and store: these need a new start.
    """

    endpoints: tuple[EndpointSpec, ...]
    host: str = "127.0.0.1"
    port: int = 8470
    tls_certificate: str | None = None
    tls_key: str | None = None
    store_url: str = ""
    plan_digest: str = ""
    revision: int = 0
    limits: Limits = Limits()
    traces: TraceSpec | None = None
    workers: int = 1
    admin_port: int | None = None

    @property
    def url(self) -> str:
        scheme = "https" if self.tls_certificate else "http"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}/v1"


def read(path: Path) -> GatewayConfig:
    """The configuration in a file, checked. Raises OperateError (AW-OPS-10 to AW-OPS-13)."""
    try:
        config = msgspec.json.decode(path.read_bytes(), type=GatewayConfig)
    except OSError as error:
        raise from_os_error(error) from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        hint = "`archwright up` writes this file; start the gateway through it"
        raise OperateError("AW-OPS-10", f"not a gateway configuration: {error}", where=_at(path), hint=hint) from error
    check(config, str(path))
    return config


def check(config: GatewayConfig, file: str = "") -> None:
    """Refuses a configuration that would serve in the clear or could not serve at all."""
    where = Where(file or None, None, "host")
    if not is_loopback(config.host) and not (config.tls_certificate and config.tls_key):
        raise OperateError(
            "AW-OPS-11",
            f"refuses to listen on {config.host} without TLS",
            where=where,
            hint="set tls_certificate and tls_key, or listen on 127.0.0.1",
        )
    if bool(config.tls_certificate) != bool(config.tls_key):
        hint = "set both tls_certificate and tls_key, or neither"
        raise OperateError("AW-OPS-12", "half of a TLS pair", where=Where(file or None, None, "tls_key"), hint=hint)
    if config.tls_certificate and config.tls_key:
        _check_pair(config.tls_certificate, config.tls_key)
    _check_endpoints(config.endpoints, file)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`. A name other than localhost may resolve to anything: no."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def shared_out(config: GatewayConfig) -> GatewayConfig:
    """As one of its workers serves it."""
    endpoints = tuple(replace(spec, slots=-(-spec.slots // config.workers)) for spec in config.endpoints)
    return replace(config, endpoints=endpoints)


def listen(host: str, port: int) -> socket.socket:
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


def _at(path: Path) -> Where:
    return Where(str(path))


def _check_pair(certificate: str, key: str) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    except OSError as error:  # ssl.SSLError is one
        hint = "give a PEM certificate (chain) and its unencrypted private key"
        reason = error.strerror or str(error)
        raise OperateError(
            "AW-OPS-12", f"cannot use the TLS pair: {reason}", where=Where(certificate), hint=hint
        ) from error


def _check_endpoints(endpoints: tuple[EndpointSpec, ...], file: str) -> None:
    """Each (model, workload) once, each pool described alike wherever it is named, every count positive."""
    pools: dict[str, tuple[object, ...]] = {}
    seen: set[tuple[str, str, str]] = set()
    for index, spec in enumerate(endpoints):
        field = f"endpoints[{index}]"
        problem = ""
        if not spec.addresses:
            problem = "has no address"
        elif min(spec.slots, spec.context_tokens, spec.default_max_tokens) < 1:
            problem = "needs slots, context_tokens and default_max_tokens of at least 1"
        elif (spec.kind, spec.model, spec.workload) in seen:
            problem = f"serves model {spec.model!r} for workload {spec.workload!r} a second time"
        elif pools.setdefault(spec.pool, _machinery(spec)) != _machinery(spec):
            problem = f"describes pool {spec.pool!r} differently from an earlier endpoint"
        if problem:
            hint = "`archwright up` writes this file; start the gateway through it"
            raise OperateError("AW-OPS-13", f"{field} {problem}", where=Where(file or None, None, field), hint=hint)
        seen.add((spec.kind, spec.model, spec.workload))


def _machinery(spec: EndpointSpec) -> tuple[object, ...]:
    return (spec.addresses, spec.slots, spec.key_env, spec.health_path, spec.version, spec.protocol, spec.tools)
