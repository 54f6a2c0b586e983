"""What must hold for the Terraform files of every cloud: references, labels, secrets, form. Pure text, no tool."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from archwright.contract.record import replace
from archwright.deploy.bundle import FileBundle, compose_files, encode_json
from archwright.deploy.cloud_site import list_cloud_sites
from archwright.deploy.deployment import Deployment
from archwright.deploy.templating import expand_templates

REFERENCE = re.compile(r"(?<![\w.\"-])((?:var|local)\.[\w-]+|(?:azurerm|google|aws)_\w+\.[\w-]+)")
SECRET = re.compile(r"(?i)password|secret|token|private_key|credential")
# Words of arguments that hold no secret, but the name or the version of one.
HARMLESS = re.compile(r"_version$|_id$|_enabled$|_name$|_auth_enabled|rotation|^secret$|secrets_provider|secret_id")
ACCOUNT_ID = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b|\b\d{12}\b")


def read_module(bundle: FileBundle) -> dict[str, Any]:
    """Return the *.tf.json files of a bundle with one cloud site, merged."""
    return _merge(file.text for path, file in bundle.files.items() if path.endswith(".tf.json"))


def render_site_beside(folder: str, deployment: Deployment) -> dict[str, Any]:
    """Return the module of a cloud site whose gateway runs elsewhere."""
    clouds = [replace(one, site=replace(one.site, is_main=False)) for one in list_cloud_sites(deployment)]
    context = {"clouds": clouds, "plan": deployment.plan, "option": deployment.option, "site": deployment.main_site}
    found = [one for name in ("cloud", folder) for one in expand_templates(name, context)]
    files = compose_files(one for one in found if one.file.endswith(".tf.json"))
    return _merge(one.text for one in files.values())


def _merge(texts: Iterable[str]) -> dict[str, Any]:
    module: dict[str, Any] = {}
    for text in texts:
        for kind, named in json.loads(text).items():
            into = module.setdefault(kind, {})
            for name, body in named.items():
                into[name] = {**into[name], **body} if isinstance(into.get(name), dict) else body
    return module


def walk(value: object, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the path and the value of each leaf."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from walk(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from walk(item, f"{path}[{number}]")
    else:
        yield path, value


def find_problems(module: dict[str, Any], tags: str) -> list[str]:
    """Return what is wrong with a root module. `tags`: the argument that carries the labels."""
    return [
        *_find_open_references(module),
        *_find_unused_names(module),
        *_find_untagged(module, tags),
        *_find_literal_secrets(module),
        *_find_loose_variables(module),
        *_find_missing_reasons(module),
    ]


def _list_known(module: dict[str, Any]) -> set[str]:
    known = {f"var.{name}" for name in module.get("variable", {})}
    known |= {f"local.{name}" for name in module.get("locals", {})}
    return known | {f"{kind}.{name}" for kind, named in module.get("resource", {}).items() for name in named}


def _list_references(module: dict[str, Any]) -> dict[str, str]:
    """Return each reference with one place that uses it: in expressions, depends_on and dynamic blocks."""
    found = {}
    for path, value in walk(module):
        if isinstance(value, str) and ("${" in value or ".depends_on[" in path) and not path.endswith(".//"):
            found.update({name: path for name in REFERENCE.findall(value)})
    return found


def _find_open_references(module: dict[str, Any]) -> list[str]:
    known = _list_known(module)
    return [f"{path} refers to {name}" for name, path in _list_references(module).items() if name not in known]


def _find_unused_names(module: dict[str, Any]) -> list[str]:
    used = _list_references(module)
    names = [f"var.{name}" for name in module.get("variable", {})]
    names += [f"local.{name}" for name in module.get("locals", {})]
    return [f"nothing uses {name}" for name in names if name not in used]


def _find_untagged(module: dict[str, Any], tags: str) -> list[str]:
    """A kind whose other resources carry labels must carry them everywhere."""
    words = {"tags", "labels", "resource_labels", "user_labels", "default_tags"}
    found = []
    for kind, named in module["resource"].items():
        carries = {name: bool(words & body.keys()) or tags in json.dumps(body) for name, body in named.items()}
        if any(carries.values()):
            found += [f"{kind}.{name} has no labels" for name, has in carries.items() if not has]
    return found


def _find_literal_secrets(module: dict[str, Any]) -> list[str]:
    found = []
    for path, value in walk(module.get("resource", {})):
        name = path.rsplit(".", 1)[-1]
        literal = isinstance(value, str) and "${" not in value
        if literal and SECRET.search(name) and not HARMLESS.search(name):
            found.append(f"{path} holds the literal {value!r}")
    found += [f"{path} names an account: {value}" for path, value in walk(module) if ACCOUNT_ID.search(str(value))]
    return found


def _find_loose_variables(module: dict[str, Any]) -> list[str]:
    found = []
    for name, one in module.get("variable", {}).items():
        if not one.get("description") or "validation" not in one:
            found.append(f"variable {name} lacks a description or a validation")
        if SECRET.search(name) and ("default" in one or not one.get("sensitive")):
            found.append(f"variable {name} is a secret and must be sensitive, without a default")
    return found


def _find_missing_reasons(module: dict[str, Any]) -> list[str]:
    return [
        f"{kind}.{name} has no reason"
        for kind, named in module["resource"].items()
        for name, body in named.items()
        if not body.get("//")
    ]


def is_canonical(text: str) -> bool:
    return text == encode_json(json.loads(text))
