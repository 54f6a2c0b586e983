"""A needs file with changed fields, for `plan --what-if key=value`. Nothing is written.

A key is the path of a field as in error messages (`workloads[0].slo.ttft_p95_s`). The name of an
entry can replace its index (`workloads.assistant.slo.ttft_p95_s`). A value is YAML; an empty value
removes the field.
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
# These digits of the digest seed the traffic and stay: compared plans differ by the change, not by
# a random draw.
_SEED_DIGITS = 8


class NeedsChange(NamedTuple):
    key: str
    value: str


class _Field(NamedTuple):
    """A field of the tree: the mapping or list that holds it, its key there, and its path."""

    container: dict[str, object] | list[object]
    key: str | int
    path: str


class _Step(NamedTuple):
    """One step down the types: the type of the part, and its key in the container."""

    kind: inspect.Type
    key: str | int


def parse_changes(texts: Sequence[str]) -> tuple[NeedsChange, ...]:
    """Parse `key=value`, or several with commas between. Raises UsageError AW-USE-60."""
    changes: list[NeedsChange] = []
    for text in texts:
        for assignment in _CHANGE_SEPARATOR.split(text):
            changes.append(_parse_change(assignment))
    return tuple(changes)


def _parse_change(text: str) -> NeedsChange:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(
            "AW-USE-60",
            f"{text!r} is not a change of the form key=value",
            where=ErrorLocation(field="what_if"),
            hint="write for example budget.per_month=5000; an empty value removes the field",
        )
    return NeedsChange(key.strip(), value.strip())


def read_changed_needs(
    path: Path,
    changes: Iterable[NeedsChange],
    catalog: Catalog,
) -> tuple[Needs, NeedsSource]:
    """Return the needs at `path` with the changes, checked like any needs file."""
    data = read_needs_bytes(path)
    tree = parse_tree(data, str(path))
    applied_changes = tuple(changes)
    for change in applied_changes:
        _apply_change(tree, change)

    seed = hashlib.sha256(data).hexdigest()[:_SEED_DIGITS]
    changed_data = data + repr(applied_changes).encode()
    digest = hashlib.sha256(changed_data).hexdigest()
    return check_tree(tree, seed + digest[_SEED_DIGITS:], catalog)


def _apply_change(tree: NeedsTree, change: NeedsChange) -> None:
    """Set or remove one field of the tree.

    Raises UsageError AW-USE-61 if the key is not a field.
    """
    field = _find_field(tree, change.key)
    if field is None:
        raise _unknown_field(tree, change.key)
    value = _parse_value(change)
    _set_value(tree, field, value)


def _find_field(tree: NeedsTree, key: str) -> _Field | None:
    """Return the field that a key names; None if no field has this path."""
    kind = needs_type_info()
    parent: object = None
    value = tree.value
    path = ""
    step: _Step | None = None
    for name in _PATH_STEPS.findall(key):
        if step is not None:
            value = _child_of(value, step.key)
        parent = value
        step = _resolve_step(unwrap_optional(kind), parent, name.strip())
        if step is None:
            return None
        kind = step.kind
        path = _join_key(path, step.key)
    if step is None or not isinstance(parent, dict | list):
        return None
    return _Field(parent, step.key, path)


def _join_key(path: str, key: str | int) -> str:
    if isinstance(key, int):
        return f"{path}[{key}]"
    return join_path(path, key)


def _resolve_step(kind: inspect.Type, container: object, name: str) -> _Step | None:
    """Return the part of `kind` that a step of the path names; None if there is no such part."""
    if isinstance(kind, inspect.StructType):
        for field in kind.fields:
            if field.name == name:
                return _Step(field.type, name)
    if isinstance(kind, inspect.DictType):
        return _Step(kind.value_type, name)
    if isinstance(kind, inspect.VarTupleType) and isinstance(container, list):
        for index, entry_name in enumerate(_entry_names(container)):
            if name in (entry_name, str(index)):
                return _Step(kind.item_type, index)
    return None


def _entry_names(entries: list[object]) -> Iterator[str]:
    """Yield the name of each entry of a list, or its index if it has no name."""
    for index, entry in enumerate(entries):
        match entry:
            case {"name": str(name)}:
                yield name
            case _:
                yield str(index)


def _child_of(container: object, key: str | int) -> object:
    """Return the value at `key`; a mapping that is not in the file yet is created."""
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
        raise UsageError(
            "AW-USE-60",
            f"{change.value!r}: {error.message}",
            where=ErrorLocation(field=f"what_if {change.key}"),
            hint=error.hint,
        ) from error
    if isinstance(tree.value, dict):
        return tree.value["value"]
    return None


def _set_value(tree: NeedsTree, field: _Field, value: object) -> None:
    """Set a value; it gets the line of its container, so that an error about it has a line."""
    line = _find_line(tree, field.path)
    _forget_lines(tree, field.path)
    container = field.container
    if isinstance(container, list):
        container[int(field.key)] = value
    elif value is None:
        container.pop(str(field.key), None)
        return
    else:
        container[str(field.key)] = value
    for path in _iterate_paths(value, field.path):
        tree.lines[path] = line


def _find_line(tree: NeedsTree, path: str) -> int:
    for enclosing_path in enclosing_paths(path):
        if enclosing_path in tree.lines:
            return tree.lines[enclosing_path]
    return 1


def _forget_lines(tree: NeedsTree, path: str) -> None:
    """Remove the lines of a field and of everything inside it."""
    inner_prefixes = (f"{path}.", f"{path}[")
    for known_path in list(tree.lines):
        if known_path == path or known_path.startswith(inner_prefixes):
            del tree.lines[known_path]


def _iterate_paths(value: object, path: str) -> Iterator[str]:
    """Yield the path itself and the paths of everything inside."""
    yield path
    for child_path, child in iterate_children(value, path):
        yield from _iterate_paths(child, child_path)


def _unknown_field(tree: NeedsTree, key: str) -> UsageError:
    """Return the error AW-USE-61 with the nearest existing paths."""
    field_paths = list(_field_paths(needs_type_info(), tree.value, ""))
    same_ending = [path for path in field_paths if path.endswith(f".{key}")]
    similar = difflib.get_close_matches(key, field_paths, n=3, cutoff=0.5)
    nearest = (*same_ending, *similar)[:3]

    hint = "write a path such as budget.per_month"
    if nearest:
        hint = f"did you mean {', '.join(nearest)}?"
    return UsageError(
        "AW-USE-61",
        f"the needs have no field {key!r}",
        where=ErrorLocation(tree.file, None, key),
        hint=hint,
        nearest=nearest,
    )


def _field_paths(kind: inspect.Type, value: object, path: str) -> Iterator[str]:
    """Yield the paths of all possible fields; entries of lists by name."""
    kind = unwrap_optional(kind)
    if isinstance(kind, inspect.StructType):
        present_values = value if isinstance(value, dict) else {}
        for field in kind.fields:
            field_path = join_path(path, field.name)
            yield from _field_paths(field.type, present_values.get(field.name), field_path)
    elif isinstance(kind, inspect.VarTupleType) and isinstance(value, list):
        for name, item in zip(_entry_names(value), value, strict=True):
            yield from _field_paths(kind.item_type, item, join_path(path, name))
    elif isinstance(kind, inspect.DictType) and isinstance(value, dict):
        for name, item in value.items():
            yield from _field_paths(kind.value_type, item, join_path(path, name))
    else:
        yield path
