"""Read small YAML files (a recipe, a training spec) into a record; errors name the line.

Strict: one document, no aliases, tags or merge keys, no duplicate or unknown fields; plain values follow YAML 1.2 (`NO`
is a text).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from archwright.errors import ArchwrightError, ErrorLocation, MissingError, from_os_error
from archwright.scalars import resolve_scalar

R = TypeVar("R")

SIZE_LIMIT_BYTES = 64 * 1024
DEPTH_LIMIT = 16
STANDARD = "tag:yaml.org,2002:"
# The tags of nodes without an explicit tag.
TAGS = {"null", "bool", "int", "float", "str", "seq", "map", "timestamp", "value", "merge"}
ErrorFactory = Callable[[str, ErrorLocation], ArchwrightError]
"""Builds the caller's error, with its own code and hint, from a message and a place."""


class _SpecError(ValueError):
    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


def read_spec(path: Path, kind: type[R], refuse: ErrorFactory) -> R:
    """Return the record in the file. Raises the error of `refuse`; an OSError becomes OperateError or UsageError."""
    try:
        with path.open("rb") as file:
            raw = file.read(SIZE_LIMIT_BYTES + 1)
    except OSError as error:
        raise from_os_error(error) from error
    if len(raw) > SIZE_LIMIT_BYTES:
        raise refuse(f"the file is larger than {SIZE_LIMIT_BYTES} bytes", ErrorLocation(str(path)))
    lines: dict[str, int] = {}
    try:
        value = _convert_node(_compose_yaml(raw.decode("utf-8")), "$", lines, set())
        return msgspec.convert(value, kind)
    except UnicodeDecodeError as error:
        raise refuse("the file is not UTF-8 text", ErrorLocation(str(path))) from error
    except _SpecError as error:
        raise refuse(str(error), ErrorLocation(str(path), error.line)) from error
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `")
        field = place.rstrip("`") or "$"
        raise refuse(message, ErrorLocation(str(path), _field_line(field, lines), _display_path(field))) from error


def _compose_yaml(text: str) -> yaml.Node:
    loader = getattr(yaml, "CSafeLoader", None)
    if loader is None:
        hint = "pip install --force-reinstall --only-binary pyyaml pyyaml"
        raise MissingError("AW-GET-11", "this PyYAML was built without its C parser", hint=hint)
    try:
        node = yaml.compose(text, Loader=loader)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or "the text is unreadable"
        raise _SpecError(f"the file is not YAML: {problem}", 1 if mark is None else mark.line + 1) from error
    if not isinstance(node, yaml.MappingNode):
        raise _SpecError("the file must be a mapping of fields", 1)
    return node


def _convert_node(node: yaml.Node, path: str, lines: dict[str, int], seen: set[int], depth: int = 0) -> Any:
    line = node.start_mark.line + 1
    lines.setdefault(path, line)
    if depth > DEPTH_LIMIT:
        raise _SpecError(f"nested more than {DEPTH_LIMIT} levels deep", line)
    if id(node) in seen:
        raise _SpecError("aliases (*name) are not supported: write the value", line)
    seen.add(id(node))
    if node.tag.removeprefix(STANDARD) not in TAGS:
        raise _SpecError("tags (!name) are not supported: write a plain value", line)
    if isinstance(node, yaml.ScalarNode):
        return resolve_scalar(node.value) if not node.style else node.value
    if isinstance(node, yaml.SequenceNode):
        return [
            _convert_node(item, f"{path}[{index}]", lines, seen, depth + 1) for index, item in enumerate(node.value)
        ]
    found: dict[str, Any] = {}
    for key, item in node.value if isinstance(node, yaml.MappingNode) else ():
        name = key.value if isinstance(key, yaml.ScalarNode) else None
        if name is None or name == "<<" or name in found:
            what = "a field's name must be a text" if name is None else f"the field {name!r} is defined twice"
            raise _SpecError(
                "merge keys (<<) are not supported: write the fields" if name == "<<" else what, key.start_mark.line + 1
            )
        lines[f"{path}.{name}"] = key.start_mark.line + 1
        found[name] = _convert_node(item, f"{path}.{name}", lines, seen, depth + 1)
    return found


def _field_line(field: str, lines: dict[str, int]) -> int | None:
    """Return the line of the field, or of the nearest enclosing field."""
    while field not in lines and (cut := re.sub(r"(\.[^.\[\]]*|\[[^\]]*\])$", "", field)) != field:
        field = cut
    return lines.get(field)


def _display_path(field: str) -> str | None:
    return field.removeprefix("$").strip(".") or None
