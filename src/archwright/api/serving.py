"""`serve`: the gateway alone, in front of engines that run already; without a plan."""

import ipaddress
import os
from collections.abc import Iterable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import get_args
from urllib.parse import urlsplit

import msgspec

from archwright import settings
from archwright.access.api_keys import load_pepper
from archwright.api.argument_errors import argument_error
from archwright.api.context import open_home, open_keys, write_audit_record
from archwright.contract.record import Record
from archwright.errors import ErrorLocation, OperateError
from archwright.home import Home, locate_home, write_json
from archwright.journal import Journal
from archwright.monitor.trace_exporter import TraceSpec
from archwright.operate import owner_keys, readiness_probe
from archwright.operate.process_restart import ForkedChild, RestartedProcess
from archwright.policy.cache_key import CachePolicy
from archwright.serving.process.master import ListeningSockets, Master
from archwright.serving.settings.config import (
    EndpointSpec,
    EnginePoolSpec,
    GatewayConfig,
    WeightedTarget,
    check_config,
    read_config,
)
from archwright.serving.settings.engine_fields import OPENAI, list_engines

MILLION = 1e6
WORKERS_LIMIT = 64
# Suffixes of names that no public server has (RFC 6762, RFC 6761, and the domain reserved for private use).
PRIVATE_SUFFIXES = (".local", ".localhost", ".internal")
# The capacity of upstream engines is unknown; these values bound the requests of one gateway.
SLOTS, CONTEXT_TOKENS, DEFAULT_MAX_TOKENS = 512, 1 << 20, 4096


class ServeOptions(Record):
    """`price` is MODEL=IN:OUT in USD per million tokens; the other sequences are NAME=VALUE texts."""

    upstream: tuple[str, ...] | None = None
    port: int | None = None
    workers: int = 1
    price: tuple[str, ...] | None = None
    key_env: tuple[str, ...] | None = None
    host: str | None = None
    cache: str = "off"
    admin_port: int | None = None
    engine_kind: tuple[str, ...] | None = None
    allow_field: tuple[str, ...] | None = None


class GatewayReady(Record):
    """`key` is set on the first start of a home only; `admin` is the URL of the administration interface."""

    url: str
    key: str | None
    admin: str | None


class GatewayHandle(AbstractContextManager["GatewayHandle"]):
    """A gateway whose workers accept requests. It ends with this process: call `wait()`, or use `with`."""

    def __init__(self, ready: GatewayReady, master: RestartedProcess) -> None:
        self.ready = ready
        self._master = master

    def wait(self) -> int:
        """Run until SIGTERM or SIGINT. Dead workers and a dead master are restarted; SIGHUP replaces all workers."""
        return self._master.wait()

    def stop(self) -> None:
        self._master.stop()

    def __exit__(self, *_: object) -> None:
        self.stop()


def serve(*, options: ServeOptions = ServeOptions()) -> GatewayHandle:  # noqa: B008 - frozen
    """Serve upstreams; return when every worker accepts requests.

    Workers are forks, so call it from the main thread before other threads start.
    Raises UsageError AW-USE-70 to AW-USE-73, SettingsError AW-SET-02 (not a port), OperateError (port taken, address
    without TLS, AW-OPS-22 a worker does not start).
    """
    chosen = settings.load({"port": options.port, "host": options.host, "admin_port": options.admin_port})
    if not 1 <= options.workers <= WORKERS_LIMIT:
        hint = f"--workers takes 1 to {WORKERS_LIMIT}"
        raise argument_error("AW-USE-73", f"workers is {options.workers}", "workers", hint)
    pools, endpoints = _build_pools_and_endpoints(options)
    config = GatewayConfig(
        pools=pools,
        endpoints=endpoints,
        host=chosen.host,
        port=chosen.port or readiness_probe.find_free_port(chosen.host),
        tls_certificate=chosen.tls_certificate or None,
        tls_key=chosen.tls_key or None,
        store_url=chosen.database_url,
        workers=options.workers,
        admin_port=options.admin_port or None,  # 0: no interface, as in the settings
        trusted_proxies=chosen.proxy_networks,
        traces=TraceSpec(url=chosen.otlp_url) if chosen.otlp_url else None,
        image_hosts=chosen.image_host_list,
        audit_checkpoints=chosen.audit_checkpoints,
    )
    check_config(config)
    home = locate_home(chosen)
    with open_home() as (_chosen, _home, store):
        load_pepper(home, store)  # workers only read its file
    bound = ListeningSockets(config)
    file = home.config(f"serve-{config.port}")
    write_json(file, config)
    master = RestartedProcess("gateway", partial(_run_master, file, home, bound), Journal("parent"))
    master.start()  # first, so that the work below runs while the workers start
    with open_home() as (_chosen, _home, store):
        write_audit_record(store, "serve", config.url)
    if status := master.wait_until_ready():
        message, hint = f"a worker ended with status {status}", "read the error of the worker above"
        raise OperateError("AW-OPS-22", message, where=ErrorLocation(str(file)), hint=hint)
    url = config.url.removesuffix("/v1")
    admin = None if config.admin_port is None else f"{url.rpartition(':')[0]}:{config.admin_port}/admin"
    with open_keys() as (keys, _home, _store):  # now that the workers have the table that tells them of a new key
        return GatewayHandle(GatewayReady(url=url, key=owner_keys.create_owner_key(keys), admin=admin), master)


def _run_master(file: Path, home: Home, bound: ListeningSockets, child: ForkedChild) -> int:
    """Run the master in a fork of this process, which keeps the ports open while the master is restarted."""
    os.umask(0o077)
    master = Master(read_config(file), file, home, bound, life=child.life)
    master.start()
    status = master.wait_until_ready()
    if status == 0:
        child.report_ready()
        master.run()
    return status


def _build_pools_and_endpoints(options: ServeOptions) -> tuple[tuple[EnginePoolSpec, ...], tuple[EndpointSpec, ...]]:
    addresses: dict[str, list[str]] = {}
    for model, url in parse_pairs(options.upstream, "upstream", "MODEL=URL"):
        addresses.setdefault(model, []).append(check_engine_url(url, "upstream"))
    if not addresses:
        hint = "add --upstream MODEL=URL with the URL of an OpenAI interface, ending in /v1"
        raise argument_error("AW-USE-70", "no upstream is given", "upstream", hint)
    if options.cache not in get_args(CachePolicy):
        hint = f"use one of {', '.join(get_args(CachePolicy))}"
        raise argument_error("AW-USE-73", f"unknown cache policy {options.cache!r}", "cache", hint)
    stated = _parse_served_pairs(options.price, "price", "MODEL=IN:OUT", addresses)
    prices = {model: _parse_price(text) for model, text in stated.items()}
    keys = _parse_served_pairs(options.key_env, "key_env", "MODEL=NAME", addresses)
    for name in keys.values():
        check_key_variable(name)
    kinds = _parse_served_pairs(options.engine_kind, "engine_kind", "MODEL=KIND", addresses)
    for kind in set(kinds.values()) - set(list_engines()):
        raise argument_error(
            "AW-USE-73", f"unknown engine {kind!r}", "engine_kind", f"use one of {', '.join(list_engines())}"
        )
    fields = collect_values(options.allow_field, "allow_field", "MODEL=FIELD")
    _check_served(fields, "allow_field", addresses)
    pools = tuple(
        EnginePoolSpec(
            name=model,
            addresses=tuple(found),
            model=model,
            slots=SLOTS,
            context_tokens=CONTEXT_TOKENS,
            key=f"env:{keys[model]}" if model in keys else "",
            health_path="",
            own=all(map(_is_private_address, found)),
            price_in_usd=prices.get(model, (None, None))[0],
            price_out_usd=prices.get(model, (None, None))[1],
            vision=True,
            engine=kinds.get(model, OPENAI),
            allow_fields=fields.get(model, ()),
        )
        for model, found in addresses.items()
    )
    cache: CachePolicy = msgspec.convert(options.cache, CachePolicy)
    endpoints = tuple(
        EndpointSpec(
            model=model,
            workload=model,
            targets=(WeightedTarget(pool=model),),
            default_max_tokens=DEFAULT_MAX_TOKENS,
            embeddings=True,
            rerank=True,
            cache=cache,
            detect=False,  # no residency is configured here, so the data class that the caller states decides
        )
        for model in addresses
    )
    return pools, endpoints


def parse_pairs(texts: Iterable[str] | None, field: str, form: str) -> list[tuple[str, str]]:
    """Split NAME=VALUE texts. Raises UsageError AW-USE-70."""
    found = []
    for text in texts or ():
        name, _, value = text.partition("=") if form.endswith("=URL") else text.rpartition("=")
        if not name or not value:
            option = f"write --{field.replace('_', '-')} {form}"
            raise argument_error("AW-USE-70", f"{text!r} has not the form {form}", field, option)
        found.append((name, value))
    return found


def collect_values(texts: Iterable[str] | None, field: str, form: str) -> dict[str, tuple[str, ...]]:
    """Return the values of each name of NAME=VALUE texts. Raises UsageError AW-USE-70."""
    found: dict[str, tuple[str, ...]] = {}
    for name, value in parse_pairs(texts, field, form):
        found[name] = (*found.get(name, ()), value)
    return found


def require_unique(pairs: Iterable[tuple[str, str]], field: str) -> dict[str, str]:
    """Return the value of each name. Raises UsageError AW-USE-72 if a name has two different values."""
    found: dict[str, str] = {}
    for name, value in pairs:
        if found.setdefault(name, value) != value:
            hint = f"give --{field.replace('_', '-')} {name}=... once"
            raise argument_error("AW-USE-72", f"{name!r} has two different values", field, hint)
    return found


def _parse_served_pairs(texts: Iterable[str] | None, field: str, form: str, models: Iterable[str]) -> dict[str, str]:
    """Return the value of each model. Raises UsageError AW-USE-72 for a model without an upstream."""
    found = require_unique(parse_pairs(texts, field, form), field)
    _check_served(found, field, models)
    return found


def _check_served(found: Iterable[str], field: str, models: Iterable[str]) -> None:
    for model in found:
        if model not in models:
            hint = f"add --upstream {model}=URL, or use one of {', '.join(models)}"
            raise argument_error("AW-USE-72", f"no upstream is named {model!r}", field, hint)


def check_key_variable(name: str) -> None:
    """Raises UsageError AW-USE-72 if the variable that `--key-env` names is not set."""
    if settings.read_variable(name) is None:
        hint = f"export {name}=..., or leave --key-env out"
        raise argument_error("AW-USE-72", f"the variable {name!r} is not set", "key_env", hint)


def check_engine_url(url: str, field: str) -> str:
    """Return the URL of an OpenAI interface without a trailing slash. Raises UsageError AW-USE-71."""
    hint = "use a URL such as http://host:8000/v1"
    try:
        parts = urlsplit(url)
        well = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        well = False
    if not well or not url.rstrip("/").endswith("/v1") or parts.query or parts.fragment:
        raise argument_error("AW-USE-71", f"{url!r} is not the URL of an OpenAI interface", field, hint)
    if "@" in parts.netloc:
        raise argument_error(
            "AW-USE-71", "the URL holds a password", field, "remove it, and give the key with --key-env NAME=VARIABLE"
        )
    return url.rstrip("/")


def _is_private_address(url: str) -> bool:
    """True if the upstream is in a private network; every other upstream counts as external."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host or host.endswith(PRIVATE_SUFFIXES)


def _parse_price(text: str) -> tuple[float, float]:
    """Return USD per token, in and out. Raises UsageError AW-USE-72."""
    try:
        prices = [float(part) / MILLION for part in text.split(":")]
    except ValueError:
        prices = []
    if len(prices) != 2 or not all(0 <= price <= 1 for price in prices):
        hint = "write USD per million tokens, in and out, each at most a million: --price MODEL=0.15:0.60"
        raise argument_error("AW-USE-72", f"{text!r} is not a price", "price", hint)
    return prices[0], prices[1]
