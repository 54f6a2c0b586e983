"""`serve`: the gateway alone, in front of engines that run already; without a plan."""

import os
from collections.abc import Iterable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import BinaryIO, get_args

import msgspec

from archwright import settings
from archwright.access.api_keys import load_pepper
from archwright.api.context import open_home, open_keys, write_audit_record
from archwright.api.list_prices import read_price_list
from archwright.api.upstream_check import warn_of_upstreams
from archwright.contract.listener import read_listener
from archwright.contract.record import Record, as_dict, replace
from archwright.errors import ArchwrightError, ErrorLocation, OperateError, argument_error, boundary
from archwright.home import Home, write_json
from archwright.journal import Journal
from archwright.operate import owner_keys, readiness_probe
from archwright.operate.gateway_record import ServedGateway, record_gateway
from archwright.operate.process_restart import ForkedChild, RestartedProcess
from archwright.policy.cache_key import CachePolicy
from archwright.serving.process.master import ListeningSockets, Master
from archwright.serving.settings.config import (
    EndpointSpec,
    EnginePoolSpec,
    GatewayConfig,
    check_config,
    read_config,
)
from archwright.serving.settings.engine_fields import OPENAI, list_engines
from archwright.serving.settings.gateway_file import GatewayTables, ModelEntry, UpstreamEntry, read_gateway_file
from archwright.serving.settings.prices import MILLION, UpstreamPrice
from archwright.serving.settings.upstream_kinds import find_url_problem

WORKERS_LIMIT = 64
# Options that gateway.yaml replaces, and options that replace its fields.
UPSTREAM_OPTIONS = ("upstream", "price", "key_env", "engine_kind", "allow_field", "cache")
PROCESS_OPTIONS = ("host", "port", "admin_port", "workers")
# A running gateway applies these fields only after a restart.
FIXED_FIELDS = ("host", "port", "admin_port", "store_url")


class ServeOptions(Record):
    """`config` is the path of a gateway.yaml. `price` is MODEL=IN:OUT in USD per million tokens; other sequences are
    NAME=VALUE texts."""

    config: str | None = None
    upstream: tuple[str, ...] | None = None
    port: int | None = None
    workers: int | None = None
    price: tuple[str, ...] | None = None
    key_env: tuple[str, ...] | None = None
    host: str | None = None
    cache: str | None = None
    admin_port: int | None = None
    engine_kind: tuple[str, ...] | None = None
    allow_field: tuple[str, ...] | None = None


class GatewayReady(Record):
    """`key` is set by a start that makes the owner's key; `admin` is the URL of the administration interface."""

    url: str
    key: str | None
    admin: str | None


class GatewayHandle(AbstractContextManager["GatewayHandle"]):
    """A gateway whose workers accept requests. It ends with this process: call `wait()`, or use `with`."""

    def __init__(self, ready: GatewayReady, master: RestartedProcess, lock: BinaryIO) -> None:
        self.ready = ready
        self._master, self._lock = master, lock

    def wait(self) -> int:
        """Run until SIGTERM or SIGINT. Dead workers and a dead master are restarted; SIGHUP replaces all workers."""
        return self._master.wait()

    def stop(self) -> None:
        self._master.stop()
        self._lock.close()

    def __exit__(self, *_: object) -> None:
        self.stop()


def serve(*, options: ServeOptions = ServeOptions()) -> GatewayHandle:  # noqa: B008 - frozen
    """Serve upstreams; return when every worker accepts requests.

    Workers are forks, so call it from the main thread before other threads start.
    Raises UsageError AW-USE-70 to AW-USE-73, AW-USE-81, SettingsError AW-SET-02 (not a port), OperateError (port taken,
    address without TLS, AW-OPS-22 a worker does not start, AW-OPS-71 and AW-OPS-72 a wrong gateway.yaml).
    """
    stated = _read_configuration(options)
    config = replace(stated, port=stated.port or readiness_probe.find_free_port(stated.host))
    with open_home() as (_chosen, home, store):
        load_pepper(home, store)  # workers only read its file
    bound = ListeningSockets(config)
    file = home.config(f"serve-{config.port}")
    write_json(file, config)
    url = config.url.removesuffix("/v1")
    lock = record_gateway(home, ServedGateway(name=file.stem, pid=os.getpid(), url=url))  # first: forks have it too
    journal = Journal("parent")
    reload = partial(_reload_configuration, options, stated, config, file, journal)
    master = RestartedProcess("gateway", partial(_run_master, file, home, bound), journal, reload)
    master.start()  # first, so that the work below runs while the workers start
    with open_home() as (_chosen, _home, store):
        write_audit_record(store, "serve", config.url)
    if status := master.wait_until_ready():
        message, hint = f"a worker ended with status {status}", "read the error of the worker above"
        raise OperateError("AW-OPS-22", message, where=ErrorLocation(str(file)), hint=hint)
    warn_of_upstreams(config.pools, home)
    admin = None if config.admin_port is None else f"{url.rpartition(':')[0]}:{config.admin_port}/admin"
    with open_keys() as (keys, _home, _store):  # now that the workers have the table that tells them of a new key
        return GatewayHandle(GatewayReady(url=url, key=owner_keys.create_owner_key(keys), admin=admin), master, lock)


def _read_configuration(options: ServeOptions) -> GatewayConfig:
    """Read and check what to serve: an option replaces a field of gateway.yaml, which replaces a setting."""
    chosen = settings.load({"port": options.port, "host": options.host, "admin_port": options.admin_port})
    listener = as_dict(read_listener(chosen))
    base = GatewayConfig(pools=(), endpoints=(), store_url=chosen.database_url, **listener)
    stated = {name: value for name in PROCESS_OPTIONS if (value := getattr(options, name)) is not None}
    stated |= {"admin_port": None} if options.admin_port == 0 else {}
    if options.config is None:
        pools, endpoints = _build_pools_and_endpoints(options)
        config = replace(base, pools=pools, endpoints=endpoints, **stated)
        check_config(config)
    else:
        if given := next((name for name in UPSTREAM_OPTIONS if getattr(options, name) is not None), None):
            hint = f"write it into {options.config}, or leave --config out"
            message = f"--{given.replace('_', '-')} and --config are both given"
            raise argument_error("AW-USE-81", message, given, hint)
        found = read_gateway_file(Path(options.config), base, read_price_list)
        found = found._replace(config=replace(found.config, **stated))
        found.check()
        config = found.config
    if not 1 <= config.workers <= WORKERS_LIMIT:
        raise argument_error("AW-USE-73", f"workers is {config.workers}", "workers", f"use 1 to {WORKERS_LIMIT}")
    return config


def _reload_configuration(
    options: ServeOptions, stated: GatewayConfig, running: GatewayConfig, file: Path, journal: Journal
) -> bool:
    """Write what the options and gateway.yaml say now for the workers. False, with the reason logged, if it is wrong.

    Raises nothing: the gateway serves its old configuration."""
    if options.config is None:
        return True  # the workers read their own file again
    try:
        with boundary("reload"):
            config = _read_configuration(options)
            changed = [name for name in FIXED_FIELDS if getattr(config, name) != getattr(stated, name)]
            write_json(file, replace(config, **{name: getattr(running, name) for name in FIXED_FIELDS}))
    except ArchwrightError as error:
        journal.error("reload failed", **error.as_dict())
        return False
    if changed:
        journal.warning("restart needed", code="AW-OPS-73", fields=changed, hint="restart the gateway to change them")
    return True


def _run_master(file: Path, home: Home, bound: ListeningSockets, child: ForkedChild) -> int:
    """Run the master in a fork of this process, which keeps the ports open while the master is restarted."""
    os.umask(0o077)
    master = Master(read_config(file), file, home, bound, life=child.life, is_restart=child.is_restart)
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
    stated_cache = options.cache or "off"
    if stated_cache not in get_args(CachePolicy):
        hint = f"use one of {', '.join(get_args(CachePolicy))}"
        raise argument_error("AW-USE-73", f"unknown cache policy {stated_cache!r}", "cache", hint)
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
    entries = {
        model: ModelEntry(
            upstreams=(
                UpstreamEntry(
                    url=tuple(found),
                    key=f"env:{keys[model]}" if model in keys else "",
                    price=prices.get(model),
                    engine=kinds.get(model, OPENAI),
                    allow_fields=fields.get(model, ()),
                ),
            )
        )
        for model, found in addresses.items()
    }
    return GatewayTables().build(entries, msgspec.convert(stated_cache, CachePolicy))


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
    if problem := find_url_problem(url):
        hint = "use a URL such as http://host:8000/v1, and give a key with --key-env NAME=VARIABLE"
        raise argument_error("AW-USE-71", problem, field, hint)
    return url.rstrip("/")


def _parse_price(text: str) -> UpstreamPrice:
    """Raises UsageError AW-USE-72."""
    try:
        prices = [float(part) for part in text.split(":")]
    except ValueError:
        prices = []
    if len(prices) != 2 or not all(0 <= price <= MILLION for price in prices):
        hint = "write USD per million tokens, in and out, each at most a million: --price MODEL=0.15:0.60"
        raise argument_error("AW-USE-72", f"{text!r} is not a price", "price", hint)
    return UpstreamPrice(input=prices[0], output=prices[1])
