"""Checks objects as a server of Kubernetes does on create: core kinds, and custom kinds by their definitions.

A custom object gets the defaults of its schema first. Then it must match the schema, have no unknown field, repeat no
key of a list that is a map, and pass the rules in CEL. An error of a rule counts as a refusal, as on a server.
"""

from __future__ import annotations

import copy
import functools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import yaml

from .object_rules import NAME, Item, StrictLoader
from .tools import require_module

VERSIONS = ("1.35", "1.36")
# Groups with a dot that belong to Kubernetes itself; others of this domain are custom.
CORE = {f"{name}.k8s.io" for name in ("networking", "storage", "rbac.authorization", "scheduling", "resource", "node")}
LABEL = re.compile(r"([A-Za-z0-9]([-\w.]{0,61}[A-Za-z0-9])?)?")
METADATA = {"name", "namespace", "generateName", "labels", "annotations", "finalizers", "ownerReferences"}
# Words that CEL reserves: a property of such a name is escaped.
RESERVED = {
    *("as", "break", "const", "continue", "else", "false", "for", "function", "if", "import", "in", "let", "loop"),
    *("null", "package", "namespace", "return", "true", "var", "void", "while"),
}
ESCAPES = (("__", "__underscores__"), (".", "__dot__"), ("-", "__dash__"), ("/", "__slash__"))
Schema = dict[str, Any]


class CustomKind(NamedTuple):
    scope: str
    schema: Schema


class CustomKinds:
    """The definitions of a folder. `passed` counts rules of CEL that held, `skipped` those about an earlier object."""

    def __init__(self, folder: Path) -> None:
        self._kinds: dict[tuple[str, str], CustomKind] = {}
        self._validators: dict[tuple[str, str], jsonschema.Draft202012Validator] = {}
        self.passed = self.skipped = 0
        for path in sorted(folder.rglob("*.yaml")):
            for document in yaml.load_all(path.read_text(encoding="utf-8"), StrictLoader):
                if isinstance(document, dict) and document.get("kind") == "CustomResourceDefinition":
                    self.add(document["spec"])
        if not self._kinds:
            raise FileNotFoundError(f"{folder} has no CustomResourceDefinition")

    def add(self, spec: Item) -> None:
        for version in spec["versions"]:
            key = (f"{spec['group']}/{version['name']}", spec["names"]["kind"])
            self._kinds[key] = CustomKind(spec["scope"], version["schema"]["openAPIV3Schema"])

    def knows(self, item: Item) -> bool:
        return (item.get("apiVersion", ""), item.get("kind", "")) in self._kinds

    def has_group(self, item: Item) -> bool:
        """True if the group of an object has definitions, perhaps of other versions or kinds."""
        group = str(item.get("apiVersion", "")).partition("/")[0]
        return any(name.partition("/")[0] == group for name, _ in self._kinds)

    def check(self, item: Item) -> Iterator[str]:
        """Yield the problems of an object of a known kind."""
        key = (item["apiVersion"], item["kind"])
        kind = self._kinds[key]
        yield from check_metadata(item, kind.scope)
        value = apply_defaults(kind.schema, copy.deepcopy(item))
        if key not in self._validators:
            self._validators[key] = jsonschema.Draft202012Validator(translate(kind.schema))
        for error in self._validators[key].iter_errors(value):
            yield f"{'.'.join(map(str, error.absolute_path))}: {error.message[:200]}"
        yield from find_unknown(kind.schema, value, "", root=True)
        yield from find_repeated(kind.schema, value, "")
        yield from self._check_rules(kind.schema, value, "")

    def _check_rules(self, schema: Schema, value: object, path: str) -> Iterator[str]:
        for rule in schema.get("x-kubernetes-validations") or ():
            text = rule["rule"]
            if "oldSelf" in text:
                self.skipped += 1
                continue
            try:
                holds = run_rule(text, escape(schema, value)) is True
                reason = str(rule.get("message") or text[:120])
            except Exception as error:  # noqa: BLE001  the engine has no common class of errors
                holds, reason = False, f"the rule {text[:80]!r} cannot be evaluated: {str(error)[:100]}"
            self.passed += holds
            if not holds:
                yield f"{path.lstrip('.')}: {reason}"
        for name, below, one in list_parts(schema, value):
            yield from self._check_rules(below, one, f"{path}.{name}")


def check_metadata(item: Item, scope: str) -> Iterator[str]:
    """`scope`: "Cluster", "Namespaced", or empty if unknown."""
    metadata = item.get("metadata") or {}
    if "status" in item:
        yield "status: the server writes it"
    if not NAME.fullmatch(str(metadata.get("name", ""))) and not metadata.get("generateName"):
        yield f"metadata.name: {metadata.get('name')!r} is no name of DNS"
    yield from (f"metadata.{name}: unknown" for name in sorted(set(metadata) - METADATA))
    for part in ("labels", "annotations"):
        for name, value in (metadata.get(part) or {}).items():
            if not isinstance(value, str) or not isinstance(name, str):
                yield f"metadata.{part}.{name}: {value!r} is no text"
            elif part == "labels" and not LABEL.fullmatch(value):
                yield f"metadata.labels.{name}: {value!r} is no value of a label"
    if (scope == "Cluster") == bool(metadata.get("namespace")) and scope:
        yield f"metadata.namespace: wrong for a kind with scope {scope}"


def list_parts(schema: Schema, value: object) -> Iterator[tuple[str, Schema, Any]]:
    """Yield name, schema and value of each part of a value that the schema describes."""
    if isinstance(value, dict):
        more = schema.get("additionalProperties")
        for name, one in value.items():
            below = (schema.get("properties") or {}).get(name, more)
            if isinstance(below, dict):
                yield str(name), below, one
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        yield from ((str(number), schema["items"], one) for number, one in enumerate(value))


def apply_defaults(schema: Schema, value: Any) -> Any:
    """Return the value with the defaults of its schema, as the server stores it."""
    if isinstance(value, dict):
        for name, below in (schema.get("properties") or {}).items():
            if name not in value and "default" in below:
                value[name] = copy.deepcopy(below["default"])
    for _, below, one in list_parts(schema, value):
        apply_defaults(below, one)
    return value


def translate(schema: Schema) -> Schema:
    """Return a JSON schema for the values of a structural schema."""
    found = {name: one for name, one in schema.items() if not name.startswith("x-") and name != "nullable"}
    found.pop("format", None)
    for name in ("properties", "patternProperties"):
        if name in found:
            found[name] = {key: translate(one) for key, one in found[name].items()}
    for name in ("items", "additionalProperties", "not"):
        if isinstance(found.get(name), dict):
            found[name] = translate(found[name])
    for name in ("allOf", "anyOf", "oneOf"):
        if name in found:
            found[name] = [translate(one) for one in found[name]]
    if "pattern" in found:  # RE2 accepts flags anywhere, Python only in front
        flags = "".join(re.findall(r"\(\?[a-z]+\)", found["pattern"]))
        found["pattern"] = flags + re.sub(r"\(\?[a-z]+\)", "", found["pattern"])
    if schema.get("x-kubernetes-int-or-string"):
        found.pop("type", None)
        found.setdefault("anyOf", [{"type": "integer"}, {"type": "string"}])
    return {"anyOf": [{"type": "null"}, found]} if schema.get("nullable") else found


def find_unknown(schema: Schema, value: object, path: str, *, root: bool = False) -> Iterator[str]:
    """Yield the fields that the server would drop silently."""
    is_object = root or bool(schema.get("x-kubernetes-embedded-resource"))
    if isinstance(value, dict):
        free = schema.get("x-kubernetes-preserve-unknown-fields") or schema.get("additionalProperties")
        known = set(schema.get("properties") or {}) | ({"apiVersion", "kind", "metadata"} if is_object else set())
        if not free and not schema.get("x-kubernetes-int-or-string"):
            yield from (
                f"{path}.{name}".lstrip(".") + ": unknown field" for name in sorted(set(value) - known, key=str)
            )
    for name, below, one in list_parts(schema, value):
        if not (is_object and name == "metadata"):
            yield from find_unknown(below, one, f"{path}.{name}")


def find_repeated(schema: Schema, value: object, path: str) -> Iterator[str]:
    """Yield the lists that repeat a key, or an item of a set."""
    kind = schema.get("x-kubernetes-list-type")
    if isinstance(value, list) and kind in ("map", "set"):
        keys = schema.get("x-kubernetes-list-map-keys") if kind == "map" else None
        marks = [json.dumps([one.get(key) for key in keys] if keys else one, sort_keys=True) for one in value]
        yield from (f"{path}: {mark} occurs twice" for mark in sorted({m for m in marks if marks.count(m) > 1}))
    for name, below, one in list_parts(schema, value):
        yield from find_repeated(below, one, f"{path}.{name}")


def escape(schema: Schema, value: Any) -> Any:
    """Return the value with the names of its properties as CEL writes them; keys of maps stay."""
    if isinstance(value, list):
        return [escape(schema.get("items") or {}, one) for one in value]
    if not isinstance(value, dict):
        return value
    parts = {name: escape(below, one) for name, below, one in list_parts(schema, value)}
    known = schema.get("properties") or {}
    return {escape_name(name) if name in known else name: parts.get(name, one) for name, one in value.items()}


def escape_name(name: str) -> str:
    if name in RESERVED:
        return f"__{name}__"
    for character, word in ESCAPES:
        name = name.replace(character, word)
    return name


@functools.cache
def compile_rule(text: str) -> Any:
    return require_module("cel", package="common-expression-language").compile(text)


def run_rule(text: str, value: object) -> object:
    """Return the result of a rule. Functions of Kubernetes that the engine does not have stand in here."""
    context = require_module("cel", package="common-expression-language").Context()
    context.add_variable("self", value)
    functions: dict[str, Callable[..., object]] = {
        "split": lambda one, mark, *_: one.split(mark),
        "lowerAscii": lambda one: one.lower(),
        "find": lambda one, pattern: (re.search(pattern, one) or re.match("", one)).group(0),  # type: ignore[union-attr]
    }
    for name, function in functions.items():
        context.add_function(name, function)
    return compile_rule(text).execute(context)


def is_core(item: Item) -> bool:
    """True if the kind belongs to Kubernetes itself, by its group."""
    group = str(item.get("apiVersion", "")).rpartition("/")[0]
    return "." not in group or group in CORE


def check_core(item: Item, version: str) -> Iterator[str]:
    """Yield the problems of an object of a core kind, by the schemas of a version of Kubernetes."""
    library = require_module("kubernetes_validate", package="kubernetes-validate")
    yield from check_metadata(item, "")
    try:
        library.validate(item, version, strict=True)
    except library.ValidationError as error:
        yield f"{'.'.join(map(str, error.path))}: {error.message[:200]}"
    except library.SchemaNotFoundError:
        yield f"Kubernetes {version} has no {item.get('apiVersion')} {item.get('kind')}"
