"""gateway.yaml: the models of a gateway without a plan, for people. It becomes a GatewayConfig.

Every error names the file, the line, the field and the nearest accepted names. A relative path is relative to the file.
"""

import difflib
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, get_args

import msgspec

from archwright import specfile
from archwright.contract.listener import ListenerOptions
from archwright.contract.record import Record, as_dict, replace
from archwright.errors import ErrorLocation, OperateError
from archwright.policy.cache_key import CachePolicy
from archwright.policy.residency import DataClass
from archwright.serving.http.client_limits import ClientLimits
from archwright.serving.settings.config import (
    EndpointSpec,
    EnginePoolSpec,
    GatewayConfig,
    WeightedTarget,
    check_config,
)
from archwright.serving.settings.engine_fields import OPENAI, list_engines
from archwright.serving.settings.engine_secrets import COMMAND_EVERY_S, read_secret
from archwright.serving.settings.prices import MILLION, LongContextPrice, OtherPrices, UpstreamPrice
from archwright.serving.settings.upstream_kinds import (
    ADDRESS_FIELDS,
    build_address,
    is_private_address,
    list_providers,
)

R = TypeVar("R")
# The capacity of upstream engines is unknown; these values bound the requests of one gateway.
SLOTS, DEFAULT_MAX_TOKENS = 512, 4096
HINT = "see `Configuration file` in docs/gateway.md"
# Some ten thousand models with their prices, which are read in a few seconds.
FILE_LIMITS = specfile.SpecLimits(size_bytes=4 << 20, entries=1_000_000)
_NO_TREE = specfile.YamlTree(None, {}, {})
# Fields of the configuration that have another name in the file.
_NAMES = {"context_tokens": "context", "default_max_tokens": "max_output"}
_BOUND = re.compile(r"Expected `(?:float|int)[^`]*` (>=|<=|>|<) ([\d.]+)")
_STEP = re.compile(r"\.(\w+)|\[(\d+)\]")


class KeyCommand(Record):
    """A program and its arguments; what it prints is the key. It runs again after `every_s` seconds."""

    command: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    every_s: Annotated[int, msgspec.Meta(ge=1, lt=1_000_000)] = COMMAND_EVERY_S


class TlsFiles(Record):
    certificate: str
    key: str


class UpstreamEntry(Record):
    """Engines that serve a model. `url`: one address, or several of identical engines. `context` 0: unknown.

    `own`: our own engine; None: if its address is private. `price`: stated, or `list`: that of the price list for the
    provider and the model; `list:PROVIDER/MODEL` names another row. The other fields are those of EnginePoolSpec and of
    `upstream_kinds.csv`."""

    name: str = ""
    provider: str = OPENAI
    url: str | tuple[str, ...] = ()
    endpoint: str = ""
    deployment: str = ""
    api_version: str = ""
    region: str = ""
    project: str = ""
    location: str = ""
    model: str = ""
    key: str | KeyCommand = ""
    weight: Annotated[float, msgspec.Meta(ge=0)] = 1.0
    price: UpstreamPrice | str | None = None
    engine: str = OPENAI
    allow_fields: tuple[str, ...] = ()
    context: int = 0
    slots: int = SLOTS
    vision: bool = True
    place: str = ""
    own: bool | None = None
    first_token_s: float | None = None
    responses: bool = False


class ModelEntry(Record):
    """A model for clients. `fallbacks`, `overflow`: other models, whose upstreams then serve. `max_output`: tokens of a
    request that states none. `detect` None: only if the entry states a residency or a data class."""

    upstreams: Annotated[tuple[UpstreamEntry, ...], msgspec.Meta(min_length=1)]
    aliases: tuple[str, ...] = ()
    fallbacks: tuple[str, ...] = ()
    overflow: tuple[str, ...] = ()
    overflow_wait_s: float = 1.0
    max_output: int = DEFAULT_MAX_TOKENS
    context: int = 0
    data_class: DataClass | Literal[""] = ""
    residency: tuple[str, ...] = ()
    residency_of: dict[DataClass, tuple[str, ...]] = {}
    detect: bool | None = None
    cache: CachePolicy | None = None
    wait_s: float | None = None


class GatewayEntries(ListenerOptions):
    """The fields of the file. A field that is not stated, or empty, has the value of the settings."""

    models: dict[str, Any]
    workers: int | None = None
    tls: TlsFiles | None = None
    limits: ClientLimits | None = None
    cache: CachePolicy = "off"


_RECORDS = (
    *(GatewayEntries, ModelEntry, UpstreamEntry, UpstreamPrice, LongContextPrice),
    *(KeyCommand, TlsFiles, ClientLimits),
)
# The words that a misspelt word may mean.
_WORDS = (*(name for kind in _RECORDS for name in kind.__struct_fields__), *get_args(CachePolicy), *get_args(DataClass))


class GatewayFile(NamedTuple):
    """A file that was read. `paths`: the field in the file of each pool and endpoint of `config`."""

    config: GatewayConfig
    file: str
    tree: specfile.YamlTree
    paths: Mapping[str, str]

    def check(self) -> None:
        """Raise OperateError AW-OPS-11 to AW-OPS-15 with the line; reads every key, so commands of keys run."""
        try:
            check_config(self.config)
        except OperateError as error:
            message, path = error.message, error.where.field or ""
            for name, renamed in {path: self.paths.get(path, path), **_NAMES}.items():
                message = message.replace(name, renamed) if name else message
            path = self.paths.get(path, path)
            named = (f"{path}.{word}" for word in re.findall(r"[a-z_]+", message))
            where = self._locate(next((field for field in named if field in self.tree.lines), path))
            raise OperateError(error.code, message, where=where, hint=HINT) from error
        for index, pool in enumerate(self.config.pools):
            try:
                read_secret(pool.key)
            except OperateError as error:
                where = self._locate(f"{self.paths[f'pools[{index}]']}.key")
                raise OperateError(error.code, error.message, where=where, hint=error.hint) from error

    def _locate(self, field: str) -> ErrorLocation:
        return ErrorLocation(self.file, specfile.find_line(self.tree, field), field or None)


PriceList = Mapping[str, UpstreamPrice]
"""Prices of hosted models by PROVIDER/MODEL."""
LIST_PRICE = "list"


def read_gateway_file(
    path: Path, base: GatewayConfig, read_price_list: Callable[[], PriceList] = dict[str, UpstreamPrice]
) -> GatewayFile:
    """Read a file; `base` has the values of fields that it does not state. Raises OperateError AW-OPS-71, AW-OPS-72.

    `read_price_list` is called if an upstream has the price `list`."""

    def refuse(message: str, where: ErrorLocation) -> OperateError:
        return OperateError("AW-OPS-71", message, where=where, hint=HINT)

    tables = GatewayTables(str(path), specfile.read_tree(path, refuse, FILE_LIMITS), read_price_list)
    content = drop_empty_fields(tables.tree.value)
    found = tables.convert(content, GatewayEntries, "")
    values = as_dict(found)
    changes = {name: values[name] for name in content if name in base.__struct_fields__}
    if found.tls is not None:
        names = {"tls_certificate": found.tls.certificate, "tls_key": found.tls.key}
        changes |= {field: str(tables.folder / name) for field, name in names.items()}
    if found.admin_port == 0:
        changes["admin_port"] = None
    if not found.models:
        raise tables.refuse("models has no model", "models")
    entries = {name: tables.convert(raw, ModelEntry, f"models.{name}") for name, raw in found.models.items()}
    pools, endpoints = tables.build(entries, found.cache)
    config = replace(base, pools=pools, endpoints=endpoints, **changes)
    return GatewayFile(config, str(path), tables.tree, tables.paths)


def drop_empty_fields(content: Any) -> Any:
    """Return the content of a file without the fields that have no value."""
    if not isinstance(content, dict):
        return content
    return {name: value for name, value in content.items() if value is not None}


class GatewayTables:
    """Builds the pools and endpoints of entries. `paths`: the field in the file of each."""

    def __init__(
        self,
        file: str = "",
        tree: specfile.YamlTree = _NO_TREE,
        read_price_list: Callable[[], PriceList] = dict[str, UpstreamPrice],
    ) -> None:
        self.tree, self.folder = tree, Path(file).resolve().parent
        self._read_price_list = read_price_list
        self.paths = {"tls_certificate": "tls.certificate", "tls_key": "tls.key"}
        self._file = file

    def convert(self, value: object, kind: type[R], path: str) -> R:
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            message, _, place = str(error).partition(" - at `")
            inner = place.strip("`$")
            field = f"{path}{inner}" if path else inner.lstrip(".")
            outside = describe_outside(message, value, inner)
            if outside is not None:
                raise self.refuse(f"{field} {outside}", field, hint=hint_price(field)) from error
            word = re.search(r"(unknown field `|Invalid enum value ')(.+)[`']", message)
            if word and word[1].startswith("unknown"):
                field, message = specfile.join_path(field, word[2]), f"there is no field {word[2]!r} here"
            raise self.refuse(message, field, word[2] if word else "", _WORDS) from error

    def refuse(
        self,
        message: str,
        field: str,
        word: str = "",
        accepted: tuple[str, ...] = (),
        code: str = "AW-OPS-71",
        hint: str = HINT,
    ) -> OperateError:
        where = ErrorLocation(self._file, specfile.find_line(self.tree, field), field or None)
        near = tuple(difflib.get_close_matches(word, accepted, 1, 0.5))
        hint = f"did you mean {near[0]}?" if near else hint
        return OperateError(code, message, where=where, hint=hint, nearest=near)

    def build(
        self, entries: Mapping[str, ModelEntry], cache: CachePolicy
    ) -> tuple[tuple[EnginePoolSpec, ...], tuple[EndpointSpec, ...]]:
        """Return the pools and endpoints. `cache`: of models that state none."""
        pools: list[EnginePoolSpec] = []
        targets: dict[str, tuple[WeightedTarget, ...]] = {}
        for number, (model, entry) in enumerate(entries.items()):
            self.paths[f"endpoints[{number}]"] = f"models.{model}"
            for index, upstream in enumerate(entry.upstreams):
                path = f"models.{model}.upstreams[{index}]"
                self.paths[f"pools[{len(pools)}]"] = path
                name = upstream.name or (f"{model}-{index + 1}" if index else model)
                pools.append(self._build_pool(replace(upstream, name=name), model, path))
                targets[model] = (*targets.get(model, ()), WeightedTarget(pool=name, weight=upstream.weight))
        return tuple(pools), tuple(self._build_endpoint(name, entries[name], targets, cache) for name in entries)

    def _build_pool(self, upstream: UpstreamEntry, model: str, path: str) -> EnginePoolSpec:
        for field, known in (("provider", list_providers()), ("engine", list_engines())):
            if (value := getattr(upstream, field)) not in known:
                message = f"{field} cannot be {specfile.quote_value(value)}; use one of {', '.join(known)}"
                raise self.refuse(message, f"{path}.{field}", value, known)
        urls = (upstream.url,) if isinstance(upstream.url, str) else upstream.url
        fields = {name: getattr(upstream, name) for name in ADDRESS_FIELDS}
        try:
            address = build_address(upstream.provider, fields, urls)
        except ValueError as error:
            field, message = error.args
            raise self.refuse(message, f"{path}.{field}", code="AW-OPS-72") from error
        price = self._find_price(upstream, model, f"{path}.price")
        stated = {name: value for name, value in as_dict(upstream).items() if name in EnginePoolSpec.__struct_fields__}
        changes = {
            **address.pool_fields,
            "model": model,
            "engine_model": upstream.model or address.model or model,
            "context_tokens": upstream.context,
            "key": self._build_key(upstream.key),
            "health_path": "",
            "own": all(map(is_private_address, address.urls)) if upstream.own is None else upstream.own,
            "price_in_usd": None if price is None else price.input / MILLION,
            "price_out_usd": None if price is None else price.output / MILLION,
            "other_prices": OtherPrices() if price is None else price.other_prices(),
        }
        return EnginePoolSpec(**{**stated, **changes})

    def _find_price(self, upstream: UpstreamEntry, model: str, field: str) -> UpstreamPrice | None:
        stated = upstream.price
        if not isinstance(stated, str):
            return stated
        name = stated.removeprefix(f"{LIST_PRICE}:")
        if stated == LIST_PRICE:
            name = f"{upstream.provider}/{upstream.model or model}"
        elif name == stated:
            message = f"price cannot be {specfile.quote_value(stated)}; write input and output, or {LIST_PRICE}"
            raise self.refuse(message, field, stated, (LIST_PRICE,))
        listed = self._read_price_list()
        if name not in listed:
            message = f"the price list has no {specfile.quote_value(name)}; write input and output"
            raise self.refuse(message, field, name, tuple(listed))
        return listed[name]

    def _build_key(self, key: str | KeyCommand) -> str:
        if isinstance(key, KeyCommand):
            return f"command:{key.every_s}:{msgspec.json.encode(key.command).decode()}"
        kind, _, name = key.partition(":")
        return f"file:{self.folder / name}" if kind == "file" and name else key

    def _build_endpoint(
        self, name: str, entry: ModelEntry, targets: Mapping[str, tuple[WeightedTarget, ...]], cache: CachePolicy
    ) -> EndpointSpec:
        def list_pools(field: str, models: tuple[str, ...]) -> tuple[str, ...]:
            for index, other in enumerate(models):
                if other not in targets or other == name:
                    message = f"{field} names {specfile.quote_value(other)}, which is no other model of this file"
                    others = tuple(known for known in targets if known != name)
                    raise self.refuse(message, f"models.{name}.{field}[{index}]", other, others)
            return tuple(target.pool for other in models for target in targets[other])

        stated = {field: value for field, value in as_dict(entry).items() if field in EndpointSpec.__struct_fields__}
        bound = bool(entry.residency or entry.residency_of or entry.data_class)
        changes = {
            "model": name,
            "workload": name,
            "targets": targets[name],
            "default_max_tokens": entry.max_output,
            "context_tokens": entry.context,
            "embeddings": True,
            "rerank": True,
            "transcriptions": True,
            "overflow": list_pools("overflow", entry.overflow),
            "fallback": list_pools("fallbacks", entry.fallbacks),
            "cache": entry.cache or cache,
            # Without a residency, the data class that the caller states decides.
            "detect": False if entry.detect is None and not bound else entry.detect,
        }
        return EndpointSpec(**{**stated, **changes})


def describe_outside(message: str, value: object, place: str) -> str | None:
    """Say which number is outside which bound; None for another message. `place`: where in the value."""
    bound = _BOUND.search(message)
    if bound is None:
        return None
    for name, index in _STEP.findall(place):
        if isinstance(value, dict) and name:
            value = value.get(name)
        elif isinstance(value, list) and index:
            value = value[int(index)]
        else:
            return None
    words = {">=": "at least", "<=": "at most", ">": "above", "<": "below"}[bound[1]]
    number = "not a number" if isinstance(value, float) and math.isnan(value) else str(value)
    limit = float(bound[2])
    return f"is {number}; it must be {words} {int(limit) if limit.is_integer() else limit:,}"


def hint_price(field: str) -> str:
    """Return what to do about a number outside its bounds."""
    if ".price" in field:
        return "state USD per million tokens, such as 0.15; 0 is free; without a price, leave the field out"
    return HINT
