"""Rules for rendered Terraform JSON that need no Terraform: references, secrets, canonical form, tags."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from archwright.deploy.rendering.bundle import FileBundle, encode_json

from .provider_schemas import ProviderSchema
from .terraform_core import merge_configuration

EXPRESSION = re.compile(r"\$\{(.*)\}", re.S)
REFERENCE = re.compile(
    r"(?<![\w.\"/-])(?:(data)\.)?((?:aws|azurerm|google)_[a-z0-9_]+|var|local)\.([A-Za-z_][\w-]*)", re.A
)
SECRET_NAME = re.compile(r"password|secret|token|private_key|access_key|connection_string", re.I)
# Arguments whose names look like secrets, but hold names, numbers or switches.
NO_SECRETS = re.compile(r"(_enabled|_arn|_id|_identifier|_days|_name|_tokens|_ref|_version|_provider)$", re.I)
SECRET_VALUE = re.compile(r"AKIA[0-9A-Z]{16}|-----BEGIN [A-Z ]*PRIVATE KEY|eyJ[A-Za-z0-9_-]{20,}\.")


def select_files(bundle: FileBundle, folder: str = "terraform") -> dict[str, str]:
    """Return the Terraform files of a bundle by name."""
    prefix = f"{folder}/"
    return {
        path.removeprefix(prefix): one.text
        for path, one in bundle.files.items()
        if path.startswith(prefix) and path.endswith(".tf.json")
    }


def walk_values(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield each leaf of a configuration with its path."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from walk_values(item, (*path, key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from walk_values(item, (*path, str(number)))
    else:
        yield path, value


def find_other_forms(files: Mapping[str, str]) -> list[str]:
    """Return the files that are not in the canonical form of JSON."""
    return [name for name, text in files.items() if encode_json(json.loads(text)) != text]


def find_broken_references(files: Mapping[str, str]) -> list[str]:
    """Return the references to resources, data sources, variables and locals that the files do not define."""
    configuration = merge_configuration(dict(files))
    broken = []
    for path, value in walk_values(configuration):
        if not isinstance(value, str) or path[-1] == "//" or (path[0] == "output" and path[-1] == "description"):
            continue
        expressions = EXPRESSION.findall(value)
        if "depends_on" in path:
            expressions = [value]
        for expression in expressions:
            for data, kind, name in REFERENCE.findall(expression):
                if not _is_defined(configuration, data, kind, name):
                    broken.append(f"{'.'.join(path)}: {data + '.' if data else ''}{kind}.{name}")
    return broken


def _is_defined(configuration: dict[str, Any], data: str, kind: str, name: str) -> bool:
    if kind == "var":
        return name in configuration.get("variable", {})
    if kind == "local":
        return name in configuration.get("locals", {})
    return name in configuration.get("data" if data else "resource", {}).get(kind, {})


def find_secrets(files: Mapping[str, str]) -> list[str]:
    """Return the arguments that hold a secret as text, and variables for secrets with a default."""
    configuration = merge_configuration(dict(files))
    found = []
    for path, value in walk_values(configuration):
        if not isinstance(value, str) or path[-1] in ("//", "description", "error_message", "condition"):
            continue
        named = [part for part in path if SECRET_NAME.search(part) and not NO_SECRETS.search(part)]
        last = path[-1]
        literal = "${" not in value and bool(SECRET_NAME.search(last)) and not NO_SECRETS.search(last)
        default = path[0] == "variable" and last == "default" and bool(named) and bool(value)
        if literal or default or SECRET_VALUE.search(value):
            found.append(".".join(path))
    return found


def find_untagged(
    files: Mapping[str, str], schema: ProviderSchema, keys: Iterable[str] = ("tags", "labels")
) -> list[str]:
    """Return the resources that could have tags and have none; tags of the provider are those of every resource."""
    configuration = merge_configuration(dict(files))
    provider = configuration["provider"].get(schema.name, {})
    if provider.get("default_tags") or provider.get("default_labels"):
        return []
    return [
        f"{kind}.{name}"
        for kind, named in configuration.get("resource", {}).items()
        for name, body in named.items()
        for key in keys
        if kind in schema.resources and key in schema.resources[kind].attributes and not body.get(key)
    ]
