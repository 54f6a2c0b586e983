"""A needs file with some fields changed, for `plan --what-if key=value`: nothing is written, all checks hold.

A key is the path of a field as error messages print it (`workloads[0].slo.ttft_p95_s`); an entry that has a name may
be called by it (`workloads.assistant.slo.ttft_p95_s`). A value is YAML; an empty one takes the field away.
"""

from __future__ import annotations

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

# Another change follows a comma where a key and "=" do; any other comma belongs to the value.
_CHANGE_SEPARATOR = re.compile(r",(?=[^,=\[\]{}]+(?:\[\d+\][^,=\[\]{}]*)*=)")
_PATH_STEPS = re.compile(r"[^.\[\]]+")
# The seed of the traffic is these digits of the digest: two plans compared differ by the change, not by a draw.
_SEED_DIGITS = 8


class NeedsChange(NamedTuple):
    key: str
    value: str


def parse_changes(texts: Sequence[str]) -> tuple[NeedsChange, ...]:
    """`key=value`, or several with commas between. Raises UsageError AW-USE-60."""
    found = []
    for text in (part for given in texts for part in _CHANGE_SEPARATOR.split(given)):
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            message, where = f"{text!r} changes nothing: a change is key=value", ErrorLocation(field="what_if")
            hint = "for example budget.per_month=5000; an empty value takes the field away"
            raise UsageError("AW-USE-60", message, where=where, hint=hint)
        found.append(NeedsChange(key.strip(), value.strip()))
    return tuple(found)


def read_changed_needs(path: Path, changes: Iterable[NeedsChange], catalog: Catalog) -> tuple[Needs, NeedsSource]:
    """The needs at `path` with the changes made, checked like any needs file."""
    data = read_needs_bytes(path)
    tree = parse_tree(data, str(path))
    made = tuple(changes)
    for change in made:
        _apply_change(tree, change)
    seed = hashlib.sha256(data).hexdigest()[:_SEED_DIGITS]
    whole = hashlib.sha256(data + repr(made).encode()).hexdigest()
    return check_tree(tree, seed + whole[_SEED_DIGITS:], catalog)


def _apply_change(tree: NeedsTree, change: NeedsChange) -> None:
    """Sets or takes away one field of the tree. Raises UsageError AW-USE-61 for a key that is no field."""
    steps = [step.strip() for step in _PATH_STEPS.findall(change.key)]
    kind, holder, path = needs_type_info(), tree.value, ""
    key: str | int = ""
    for index, step in enumerate(steps):
        found = _resolve_step(unwrap_optional(kind), holder, step)
        if found is None:
            raise _unknown_field(tree, change.key)
        kind, key = found
        path = f"{path}[{key}]" if isinstance(key, int) else join_path(path, key)
        if index < len(steps) - 1:
            holder = _container_at(holder, key)
    if not steps or not isinstance(holder, dict | list):
        raise _unknown_field(tree, change.key)
    _set_value(tree, holder, key, path, _parse_value(change))


def _resolve_step(kind: inspect.Type, holder: object, step: str) -> tuple[inspect.Type, str | int] | None:
    """The type of what `step` names inside `kind`, and its key there; None when it names nothing."""
    if isinstance(kind, inspect.StructType):
        return next(((field.type, step) for field in kind.fields if field.name == step), None)
    if isinstance(kind, inspect.DictType):
        return kind.value_type, step
    if isinstance(kind, inspect.VarTupleType) and isinstance(holder, list):
        found = next((index for index, name in enumerate(_entry_names(holder)) if step in (name, str(index))), None)
        return None if found is None else (kind.item_type, found)
    return None


def _entry_names(entries: list[object]) -> Iterator[str]:
    """What each entry of a list is called: its name where it has one, else its place."""
    for index, entry in enumerate(entries):
        name = entry.get("name") if isinstance(entry, dict) else None
        yield name if isinstance(name, str) else str(index)


def _container_at(holder: object, key: str | int) -> object:
    """The container at `key`; a mapping that is not written yet is made."""
    if isinstance(holder, list) and isinstance(key, int):
        return holder[key]
    if isinstance(holder, dict):
        if holder.get(key) is None:
            holder[key] = {}
        return holder[key]
    return None


def _parse_value(change: NeedsChange) -> object:
    """The value as YAML reads it. Raises UsageError AW-USE-60 when it cannot."""
    try:
        tree = read_tree(f"value: {change.value}", change.key)
    except NeedsError as error:
        where = ErrorLocation(field=f"what_if {change.key}")
        raise UsageError("AW-USE-60", f"{change.value!r}: {error.message}", where=where, hint=error.hint) from error
    return tree.value["value"] if isinstance(tree.value, dict) else None


def _set_value(
    tree: NeedsTree, holder: dict[str, object] | list[object], key: str | int, path: str, value: object
) -> None:
    """The new value stands at the line of what encloses it, so that an error about it has a place."""
    line = next((tree.lines[above] for above in enclosing_paths(path) if above in tree.lines), 1)
    for old in [known for known in tree.lines if known == path or known.startswith((f"{path}.", f"{path}["))]:
        del tree.lines[old]
    if isinstance(holder, list):
        holder[int(key)] = value
    elif value is None:
        holder.pop(str(key), None)
        return
    else:
        holder[str(key)] = value
    tree.lines.update((below, line) for below in _iterate_paths(value, path))


def _iterate_paths(value: object, path: str) -> Iterator[str]:
    """The path itself and those of everything inside."""
    yield path
    for below, item in iterate_children(value, path):
        yield from _iterate_paths(item, below)


def _unknown_field(tree: NeedsTree, key: str) -> UsageError:
    """AW-USE-61 with the nearest paths that there are."""
    known = list(_field_paths(needs_type_info(), tree.value, ""))
    ending = [path for path in known if path.endswith(f".{key}")]
    nearest = tuple((ending + difflib.get_close_matches(key, known, n=3, cutoff=0.5))[:3])
    message, where = f"the needs have no field {key!r}", ErrorLocation(tree.file, None, key)
    hint = f"nearest: {', '.join(nearest)}" if nearest else "a key is a path such as budget.per_month"
    return UsageError("AW-USE-61", message, where=where, hint=hint, nearest=nearest)


def _field_paths(kind: inspect.Type, value: object, path: str) -> Iterator[str]:
    """The paths of every field there is, or could be; entries of lists by name."""
    kind = unwrap_optional(kind)
    inside: Iterable[tuple[str, inspect.Type, object]] = ()
    if isinstance(kind, inspect.StructType):
        held = value if isinstance(value, dict) else {}
        inside = ((field.name, field.type, held.get(field.name)) for field in kind.fields)
    elif isinstance(kind, inspect.VarTupleType) and isinstance(value, list):
        inside = ((name, kind.item_type, item) for name, item in zip(_entry_names(value), value, strict=True))
    elif isinstance(kind, inspect.DictType) and isinstance(value, dict):
        inside = ((name, kind.value_type, item) for name, item in value.items())
    else:
        yield path
    for name, below, item in inside:
        yield from _field_paths(below, item, join_path(path, name))
