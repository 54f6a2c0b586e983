"""A needs file with changed fields, for `plan --what-if key=value`. Nothing is written.

A key is the path of a field as in error messages (`workloads[0].slo.ttft_p95_s`). The name of an entry can replace its
index (`workloads.assistant.slo.ttft_p95_s`). A value is YAML; an empty value removes the field.
"""

import difflib
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from msgspec import inspect

from archwright.catalog.catalog import Catalog
from archwright.contract.needs import Needs, NeedsSource
from archwright.errors import ErrorLocation, NeedsError, UsageError
from archwright.needs.needs_problem import NeedsTree
from archwright.needs.reader import check_tree, parse_tree, read_needs_bytes
from archwright.needs.traversal import iterate_children
from archwright.needs.type_check import needs_type_info, unwrap_optional
from archwright.needs.yaml_tree import read_tree
from archwright.specfile import enclosing_paths, join_path

# A comma separates changes if a key and "=" follow; any other comma belongs to the value.
_CHANGE_SEPARATOR = re.compile(r",(?=[^,=\[\]{}]+(?:\[\d+\][^,=\[\]{}]*)*=)")
_PATH_STEPS = re.compile(r"[^.\[\]]+")
# These digits of the digest seed the traffic and stay: compared plans differ by the change, not by a random draw.
_SEED_DIGITS = 8


class NeedsChange(NamedTuple):
    key: str
    value: str


def parse_changes(texts: Sequence[str]) -> tuple[NeedsChange, ...]:
    """Parse `key=value`, or several with commas between. Raises UsageError AW-USE-60."""
    found = []
    for text in (part for given in texts for part in _CHANGE_SEPARATOR.split(given)):
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            message, where = f"{text!r} is not a change of the form key=value", ErrorLocation(field="what_if")
            hint = "write for example budget.per_month=5000; an empty value removes the field"
            raise UsageError("AW-USE-60", message, where=where, hint=hint)
        found.append(NeedsChange(key.strip(), value.strip()))
    return tuple(found)


def read_changed_needs(path: Path, changes: Iterable[NeedsChange], catalog: Catalog) -> tuple[Needs, NeedsSource]:
    """Return the needs at `path` with the changes, checked like any needs file."""
    data = read_needs_bytes(path)
    tree = parse_tree(data, str(path))
    applied = tuple(changes)
    for change in applied:
        _apply_change(tree, change)
    seed = hashlib.sha256(data).hexdigest()[:_SEED_DIGITS]
    digest = hashlib.sha256(data + repr(applied).encode()).hexdigest()
    return check_tree(tree, seed + digest[_SEED_DIGITS:], catalog)


def _apply_change(tree: NeedsTree, change: NeedsChange) -> None:
    """Set or remove one field of the tree. Raises UsageError AW-USE-61 if the key is not a field."""
    steps = [step.strip() for step in _PATH_STEPS.findall(change.key)]
    kind, container, path = needs_type_info(), tree.value, ""
    key: str | int = ""
    for index, step in enumerate(steps):
        found = _resolve_step(unwrap_optional(kind), container, step)
        if found is None:
            raise _unknown_field(tree, change.key)
        kind, key = found
        path = f"{path}[{key}]" if isinstance(key, int) else join_path(path, key)
        if index < len(steps) - 1:
            container = _container_at(container, key)
    if not steps or not isinstance(container, dict | list):
        raise _unknown_field(tree, change.key)
    _set_value(tree, container, key, path, _parse_value(change))


def _resolve_step(kind: inspect.Type, container: object, step: str) -> tuple[inspect.Type, str | int] | None:
    """Return the type and the key of the part of `kind` that `step` names; None if there is no such part."""
    if isinstance(kind, inspect.StructType):
        return next(((field.type, step) for field in kind.fields if field.name == step), None)
    if isinstance(kind, inspect.DictType):
        return kind.value_type, step
    if isinstance(kind, inspect.VarTupleType) and isinstance(container, list):
        found = next((index for index, name in enumerate(_entry_names(container)) if step in (name, str(index))), None)
        return None if found is None else (kind.item_type, found)
    return None


def _entry_names(entries: list[object]) -> Iterator[str]:
    """Yield the name of each entry of a list, or its index if it has no name."""
    for index, entry in enumerate(entries):
        name = entry.get("name") if isinstance(entry, dict) else None
        yield name if isinstance(name, str) else str(index)


def _container_at(container: object, key: str | int) -> object:
    """Return the container at `key`; a mapping that is not in the file yet is created."""
    if isinstance(container, list) and isinstance(key, int):
        return container[key]
    if isinstance(container, dict):
        if container.get(key) is None:
            container[key] = {}
        return container[key]
    return None


def _parse_value(change: NeedsChange) -> object:
    """Parse the value as YAML. Raises UsageError AW-USE-60."""
    try:
        tree = read_tree(f"value: {change.value}", change.key)
    except NeedsError as error:
        where = ErrorLocation(field=f"what_if {change.key}")
        raise UsageError("AW-USE-60", f"{change.value!r}: {error.message}", where=where, hint=error.hint) from error
    return tree.value["value"] if isinstance(tree.value, dict) else None


def _set_value(
    tree: NeedsTree, container: dict[str, object] | list[object], key: str | int, path: str, value: object
) -> None:
    """Set a value; it gets the line of its container, so that an error about it has a place."""
    line = next((tree.lines[above] for above in enclosing_paths(path) if above in tree.lines), 1)
    for old in [known for known in tree.lines if known == path or known.startswith((f"{path}.", f"{path}["))]:
        del tree.lines[old]
    if isinstance(container, list):
        container[int(key)] = value
    elif value is None:
        container.pop(str(key), None)
        return
    else:
        container[str(key)] = value
    tree.lines.update((below, line) for below in _iterate_paths(value, path))


def _iterate_paths(value: object, path: str) -> Iterator[str]:
    """Yield the path itself and the paths of everything inside."""
    yield path
    for below, item in iterate_children(value, path):
        yield from _iterate_paths(item, below)


def _unknown_field(tree: NeedsTree, key: str) -> UsageError:
    """Return the error AW-USE-61 with the nearest existing paths."""
    known = list(_field_paths(needs_type_info(), tree.value, ""))
    ending = [path for path in known if path.endswith(f".{key}")]
    nearest = tuple((ending + difflib.get_close_matches(key, known, n=3, cutoff=0.5))[:3])
    message, where = f"the needs have no field {key!r}", ErrorLocation(tree.file, None, key)
    hint = f"did you mean {', '.join(nearest)}?" if nearest else "write a path such as budget.per_month"
    return UsageError("AW-USE-61", message, where=where, hint=hint, nearest=nearest)


def _field_paths(kind: inspect.Type, value: object, path: str) -> Iterator[str]:
    """Yield the paths of all possible fields; entries of lists by name."""
    kind = unwrap_optional(kind)
    parts: Iterable[tuple[str, inspect.Type, object]] = ()
    if isinstance(kind, inspect.StructType):
        fields = value if isinstance(value, dict) else {}
        parts = ((field.name, field.type, fields.get(field.name)) for field in kind.fields)
    elif isinstance(kind, inspect.VarTupleType) and isinstance(value, list):
        parts = ((name, kind.item_type, item) for name, item in zip(_entry_names(value), value, strict=True))
    elif isinstance(kind, inspect.DictType) and isinstance(value, dict):
        parts = ((name, kind.value_type, item) for name, item in value.items())
    else:
        yield path
    for name, part, item in parts:
        yield from _field_paths(part, item, join_path(path, name))
