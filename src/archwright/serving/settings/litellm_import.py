"""LiteLLM's proxy configuration becomes a gateway.yaml; every field that does not is listed with its reason.

Design: a section gives up the fields that are taken, and the rest is listed. So no field is lost silently. A secret of
the file is neither copied nor shown. Rows of litellm_providers.csv map the providers, litellm_fields.csv has reasons.
"""

import csv
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import yaml

from archwright import specfile
from archwright.contract.record import Record
from archwright.errors import ErrorLocation, UsageError
from archwright.serving.settings.gateway_file import LIST_PRICE, PriceList
from archwright.serving.settings.litellm_prices import take_price
from archwright.serving.settings.prices import UpstreamPrice
from archwright.serving.settings.upstream_kinds import ADDRESS_FIELDS, build_address
from archwright.settings import read_variable

SERVED_MODES = ("chat", "completion", "embedding", "rerank", "responses", "audio_transcription")
# LiteLLM shares requests by the first of these fields that a deployment has.
WEIGHTS = ("weight", "rpm", "tpm")
DAY_S = 86_400  # the longest limit
_NUMBER = (int, float)
# A value that LiteLLM reads from the environment.
_VARIABLE = re.compile(r"os\.environ/([A-Za-z_][A-Za-z0-9_]*)")


class LeftOut(Record):
    """A field of LiteLLM's file that gateway.yaml does not have, or has in another way."""

    line: int | None
    field: str
    reason: str


class _NotImported(Exception):
    """The reason why a deployment is left out."""


@cache
def _read_rows(name: str) -> dict[str, dict[str, str]]:
    """Return the rows by each word of their first column."""
    with Path(__file__).with_name(name).open(encoding="utf-8", newline="") as file:
        return {word: row for row in csv.DictReader(file) for word in next(iter(row.values())).split()}


class _Section:
    """A mapping of the file. `take` removes and returns a field if it has one of the types, else None."""

    def __init__(self, value: object, path: str) -> None:
        self.value: dict[str, Any] = dict(value) if isinstance(value, dict) else {}
        self.path = path

    def take(self, name: str, *kinds: type) -> Any:
        return self.value.pop(name) if type(self.value.get(name)) in (kinds or (str,)) else None

    def take_section(self, name: str) -> "_Section":
        return _Section(self.take(name, dict), specfile.join_path(self.path, name))


class _Importer:
    def __init__(self, tree: specfile.YamlTree, read_price_list: Callable[[], PriceList]) -> None:
        self.tree, self.root = tree, _Section(tree.value, "")
        self._read_price_list = cache(read_price_list)
        self.models: dict[str, dict[str, Any]] = {}
        self.top: dict[str, Any] = {}
        self.left_out: list[LeftOut] = []
        self._weights: dict[str, list[dict[str, float]]] = {}
        self._variables: dict[str, str] = {}  # by secret
        self._environment = self.root.take_section("environment_variables")

    def leave(self, path: str, reason: str = "") -> None:
        row = _read_rows("litellm_fields.csv").get(path.rpartition(".")[2], {})
        reason = reason or row.get("reason", "gateway.yaml has no such field")
        self.left_out.append(LeftOut(line=specfile.find_line(self.tree, path), field=path, reason=reason))

    def _leave_rest(self, *sections: _Section, reason: str = "") -> None:
        for section in sections:
            for name in section.value:
                self.leave(specfile.join_path(section.path, name), reason)

    def run(self) -> None:
        for index, raw in enumerate(self.root.take("model_list", list) or ()):
            entry = _Section(raw, f"model_list[{index}]")
            try:
                self._add_deployment(entry)
            except _NotImported as error:
                self.leave(entry.path, str(error))
        for name, weights in self._weights.items():
            used = next((one for one in WEIGHTS if any(each[one] for each in weights)), "")
            for upstream, each in zip(self.models[name]["upstreams"], weights, strict=True):
                upstream |= {"weight": each[used]} if used and len(weights) > 1 else {}
        sections = [self.root.take_section(f"{name}_settings") for name in ("router", "litellm", "general")]
        for section in sections[:2]:
            limit_s = section.take("timeout", *_NUMBER) or section.take("request_timeout", *_NUMBER)
            self.top |= {"limits": {"request_s": min(limit_s, DAY_S)}} if (limit_s or 0) >= 1 else {}
            self.top |= {"cache": "all"} if section.take("cache", bool) else {}
            self._add_aliases(section.take_section("model_group_alias"))
            self._add_fallbacks(section)
        self._leave_rest(*sections, self.root)
        self._leave_rest(self._environment, reason="export the variable for the gateway")

    def _add_deployment(self, entry: _Section) -> None:
        params, info = entry.take_section("litellm_params"), entry.take_section("model_info")
        name, model = entry.take("model_name"), params.take("model")
        is_usable = name and name.isprintable() and len(name) <= specfile.MAX_KEY_CHARACTERS
        if not is_usable or not model or "*" in f"{name}{model}" or model[-1] == "/":
            reason = "missing, long, a wildcard or has invisible characters"
            raise _NotImported(f"model_name or model is {reason}: write an entry for each model")
        if (mode := info.take("mode") or "chat") not in SERVED_MODES:
            raise _NotImported(f"the gateway does not serve the mode {mode}")
        prefix, _, rest = model.partition("/")
        if "/" not in model:
            prefix, rest = "anthropic" if model.startswith("claude") else "openai", model
        row = _read_rows("litellm_providers.csv").get(prefix)
        if row is None:
            raise _NotImported(f"the provider {prefix} is not known; write provider: openai if it speaks OpenAI's API")
        upstream = self._build_upstream(row, params, rest)
        upstream |= self._build_key(row, params, name)
        if row["note"]:
            self.leave(f"{params.path}.model", row["note"])
        if price := self._choose_price(row, params, info, upstream, rest):
            upstream["price"] = price
        for section, theirs, ours in (
            (params, "max_parallel_requests", "slots"),
            (info, "max_input_tokens", "context"),
            (info, "supports_vision", "vision"),
        ):
            if (value := section.take(theirs, int, bool)) is not None and value >= (ours != "vision"):
                upstream[ours] = value
        target = self.models.setdefault(name, {"upstreams": []})
        if (length := params.take("max_tokens", int) or 0) > 0:
            target["max_output"] = length
        target["upstreams"].append(upstream)
        stated = {one: params.value.get(one) or 0 for one in WEIGHTS}
        weights = {one: value if type(value) in _NUMBER and value > 0 else 0 for one, value in stated.items()}
        self._weights.setdefault(name, []).append(weights)
        params.take("weight", *_NUMBER)
        self._leave_rest(params, info, entry)

    def _choose_price(
        self, row: Mapping[str, str], params: _Section, info: _Section, upstream: Mapping[str, Any], model: str
    ) -> dict[str, Any] | str:
        """Return the stated price, else the name of the row of the price list: LiteLLM has a list of its own."""

        def take_amount(name: str, limit: float) -> float | None:
            for section in (params, info):
                value = section.value.get(name)
                if isinstance(value, _NUMBER) and type(value) is not bool and 0 <= value <= limit:
                    del section.value[name]
                    return float(value)
            return None

        if price := take_price((*params.value, *info.value), take_amount):
            return price
        base = info.value.get("base_model")
        provider = row["price_list"]
        if type(base) is str:
            model = base.rpartition("/")[2]
        elif upstream.get("url", row["url"]) != row["url"] or "deployment" in upstream:
            return ""  # another server, or a name that the user chose
        name = f"{provider}/{model}"
        if not provider or name not in self._read_price_list():
            return ""
        if type(base) is str:
            info.take("base_model")
        return f"{LIST_PRICE}:{name}"

    def _build_upstream(self, row: Mapping[str, str], params: _Section, model: str) -> dict[str, Any]:
        """Return the fields of the address. Raises _NotImported."""
        upstream = {name: row[name] for name in ("provider", "engine") if row[name]}
        for ours, theirs in (pair.split("=") for pair in row["fields"].split()):
            value = model if theirs == "model" else self._read_value(params, theirs)
            if ours == "model" and "/" not in value:
                value = row["model_prefix"] + value
            elif ours == "endpoint":
                value = "{0.scheme}://{0.netloc}".format(urlsplit(value)) if value else ""
            elif ours == "url" and value and not value.rstrip("/").endswith("/v1"):
                self.leave(f"{params.path}.{theirs}", "/v1 was added to the address: check it")
                value = value.rstrip("/") + "/v1"
            elif ours == "url" and not value and not row["key"] and not row["url"]:
                raise _NotImported("api_base is missing")
            if value := value or (row["url"] if ours == "url" else ""):
                upstream[ours] = value
        try:
            urls = (upstream["url"],) if "url" in upstream else ()
            build_address(row["provider"], {name: upstream.get(name, "") for name in ADDRESS_FIELDS}, urls)
        except ValueError as error:
            raise _NotImported(f"{error.args[0]} is missing or not usable") from error
        return upstream

    def _read_value(self, params: _Section, name: str) -> str:
        """Return a field, or the variable that it names. Raises _NotImported."""
        value: str = params.take(name) or ""
        if (named := _VARIABLE.fullmatch(value)) is None:
            return value
        variable = named[1]
        if found := self._environment.value.get(variable) or read_variable(variable):
            return str(found)
        raise _NotImported(f"{name} is the variable {variable}, which is not set: export it and import again")

    def _build_key(self, row: Mapping[str, str], params: _Section, model: str) -> dict[str, Any]:
        stated: str | None = params.take("api_key")
        if stated is None and row["key"].startswith("["):
            return {"key": {"command": msgspec.json.decode(row["key"])}}
        named = _VARIABLE.fullmatch(stated or "")
        variable = named[1] if named else row["key"]
        if stated is not None and named is None:
            made = "KEY_" + "_".join(re.findall(r"[A-Z0-9]+", model.upper()))
            taken = self._variables.values()
            free = next(name for name in (made, *(f"{made}_{n}" for n in range(len(taken)))) if name not in taken)
            variable = self._variables.setdefault(stated, free)
            self.leave(f"{params.path}.api_key", f"a secret is not copied: export {variable}")
        return {"key": f"env:{variable}"} if variable else {}

    def _add_aliases(self, section: _Section) -> None:
        for alias, value in section.value.items():
            model = value.get("model") if isinstance(value, dict) else value
            if isinstance(model, str) and model in self.models and alias not in self.models:
                self.models[model].setdefault("aliases", []).append(alias)
            else:
                self.leave(f"{section.path}.{alias}", "the model is not imported, or the alias is a model")

    def _add_fallbacks(self, section: _Section) -> None:
        default = {"*": section.take("default_fallbacks", list) or []}
        for one in (*(section.take("fallbacks", list) or ()), default):
            for model, listed in one.items() if isinstance(one, dict) else ():
                others = [str(other) for other in listed] if isinstance(listed, list) else []
                for name in self.models if model == "*" else {model} & self.models.keys():
                    known = [other for other in others if other in self.models and other != name]
                    old = self.models[name].get("fallbacks", [])
                    self.models[name] |= {"fallbacks": list(dict.fromkeys([*old, *known]))} if known else {}
                if missing := [name for name in (model, *others) if name not in (*self.models, "*")]:
                    self.leave(f"{section.path}.fallbacks", f"not imported: {', '.join(missing)}")


def import_litellm_config(
    path: Path, read_price_list: Callable[[], PriceList] = dict[str, UpstreamPrice]
) -> tuple[str, tuple[LeftOut, ...]]:
    """Return the text of gateway.yaml, and what it lacks. Raises UsageError AW-USE-82 (another file), AW-USE-83.

    `read_price_list`: the prices of models whose costs the file does not state."""

    def refuse(message: str, where: ErrorLocation) -> UsageError:
        return UsageError("AW-USE-82", message, where=where, hint="correct the file, and write out anchors and aliases")

    importer = _Importer(specfile.read_tree(path, refuse), read_price_list)
    importer.run()
    left_out = tuple(sorted(importer.left_out, key=lambda one: (one.line or 0, one.field)))
    if not importer.models:
        where = ErrorLocation(str(path), left_out[0].line if left_out else None, "model_list")
        hint = left_out[0].reason if left_out else "add model_list"
        raise UsageError("AW-USE-83", "no model of the file can be imported", where=where, hint=hint)
    text = f"# From {specfile.quote_value(path.name)} by `archwright import litellm`, which lists what is not here.\n"
    written = {**importer.top, "models": importer.models}
    text += yaml.dump(written, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000)
    return text, left_out


class _Dumper(yaml.SafeDumper):
    """Quotes texts that look like numbers to other readers of YAML, such as 1e5."""


_Dumper.add_implicit_resolver("number", re.compile(r"[-+.]?[0-9][0-9a-zA-Z.+_-]*"), list("-+.0123456789"))
