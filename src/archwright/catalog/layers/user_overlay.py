"""The user's own facts: table -> row -> changed fields (SI), each row with a reason and a last day."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
import yaml

from archwright.catalog.tables.name_resolution import unknown_name_error
from archwright.catalog.tables.row_names import row_name
from archwright.contract.record import Record
from archwright.errors import CatalogError, ErrorLocation

R = TypeVar("R", bound=Record)
T = TypeVar("T")
# Two more fields of an own fact: the reason for it, and the last day on which it is valid.
REASON, UNTIL = "reason", "until"


class UserOverride(NamedTuple):
    """The changed fields of one row; `line` is the line of the row, `lines` are those of its fields."""

    fields: dict[str, Any]
    until: date
    line: int
    lines: dict[str, int]


class UserOverlay:
    """The overlay file, read on first use. `known`: the tables that can be changed."""

    def __init__(self, path: Path | None, known: Iterable[str], today: date) -> None:
        self._path, self._known, self._today = path or Path(), tuple(known), today
        self._there = path is not None and path.is_file()

    @cached_property
    def _overrides(self) -> dict[str, dict[str, UserOverride]]:
        found: dict[str, dict[str, UserOverride]] = {}
        for table, line, facts in _mapping_items(self._compose_yaml(), self._overlay_error) if self._there else ():
            if table not in self._known:
                where = ErrorLocation(str(self._path), line)
                raise unknown_name_error("table in the user's catalog", table, self._known, where)
            named = _mapping_items(facts, self._overlay_error)
            found[table] = {name: self._parse_override(name, at, node) for name, at, node in named}
        return found

    def _compose_yaml(self) -> yaml.Node | None:
        try:
            return yaml.compose(self._path.read_bytes(), Loader=yaml.CSafeLoader)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            raise self._overlay_error(f"not valid YAML: {error}", None if mark is None else mark.line + 1) from error

    def _parse_override(self, name: str, line: int, node: yaml.Node) -> UserOverride:
        lines = {field: at for field, at, _ in _mapping_items(node, self._overlay_error)}
        plain = yaml.constructor.SafeConstructor().construct_document(node)
        fields = {field: value.isoformat() if isinstance(value, date) else value for field, value in plain.items()}
        day_hint = "write a day such as 2027-12-31"
        for needed, hint in ((REASON, "write the reason, such as `contract 2026-17`"), (UNTIL, day_hint)):
            if not fields.get(needed):
                raise self._overlay_error(f"{name}: an own fact needs `{needed}`", line, needed, hint)
        try:
            until = date.fromisoformat(str(fields[UNTIL]))
        except ValueError as error:
            message = f"`{UNTIL}` is not a day: {fields[UNTIL]!r}"
            raise self._overlay_error(message, lines[UNTIL], UNTIL, day_hint) from error
        return UserOverride(fields, until, line, lines)

    @cached_property
    def _active_overrides(self) -> dict[str, dict[str, UserOverride]]:
        return {
            table: {name: own for name, own in facts.items() if own.until >= self._today}
            for table, facts in self._overrides.items()
        }

    @cached_property
    def expired_overrides(self) -> tuple[str, ...]:
        """Names of facts after their last day: they have no effect, and the output names them."""
        named = (item for facts in self._overrides.values() for item in facts.items())
        return tuple(sorted(name for name, own in named if own.until < self._today))

    def overridden_names(self, table: str) -> frozenset[str]:
        return frozenset(self._active_overrides.get(table, {}))

    def check_names(self, table: str, rows: Iterable[str]) -> None:
        """Raises CatalogError AW-CAT-01 if the user's facts name a row that does not exist."""
        facts = self._active_overrides.get(table, {})
        known = set(rows) if facts else set()
        for name, own in facts.items():
            if name not in known:
                where = ErrorLocation(str(self._path), own.line)
                raise unknown_name_error(f"row of {table} in the user's catalog", name, known, where)

    def apply_to_row(self, table: str, row: R) -> R:
        own = self._active_overrides.get(table, {}).get(row_name(row))
        return row if own is None else self._override_row(row, own)

    def _override_row(self, row: R, own: UserOverride) -> R:
        known = set(row.__struct_fields__)
        for field in own.fields.keys() - {REASON, UNTIL}:
            if field not in known:
                unknown = unknown_name_error("field", field, known)
                message = f"{row_name(row)}: {unknown.message}"
                raise self._overlay_error(message, own.lines[field], field, unknown.hint, unknown.nearest)
        reason = str(own.fields[REASON])
        changed = {field: value for field, value in own.fields.items() if field not in (REASON, UNTIL)}
        source = {"source": reason, "confidence": "high", "notes": f"{reason}; until {own.until}"}
        plain = {**msgspec.to_builtins(row), **source, **changed}
        try:
            return msgspec.convert({name: plain[name] for name in row.__struct_fields__ if name in plain}, type(row))
        except msgspec.ValidationError as error:
            field = next((name for name in changed if f"$.{name}" in str(error)), "")
            raise self._overlay_error(f"{row_name(row)}: {error}", own.lines.get(field, own.line), field) from error

    def apply_to_table(self, table: str, rows: T) -> T:
        """Return a table (a mapping or a tuple of records) with the user's fields applied."""
        if not self.overridden_names(table):
            return rows
        listed: list[Record] = list(rows.values() if isinstance(rows, Mapping) else rows)  # type: ignore[arg-type]
        self.check_names(table, map(row_name, listed))
        changed = [self.apply_to_row(table, row) for row in listed]
        return dict(zip(rows, changed, strict=True)) if isinstance(rows, Mapping) else tuple(changed)  # type: ignore[return-value]

    def _overlay_error(
        self, message: str, line: int | None = None, field: str = "", hint: str = "", nearest: tuple[str, ...] = ()
    ) -> CatalogError:
        where = ErrorLocation(str(self._path), line, field or None)
        return CatalogError("AW-CAT-04", message, where=where, hint=hint or "correct this line", nearest=nearest)


class overlaid_property(cached_property[T]):
    """A cached property that reads a table and applies the user's own facts; its name is the table's."""

    def __init__(self, read: Callable[[Any], T]) -> None:
        super().__init__(lambda tables: tables.user_overlay.apply_to_table(self.attrname, read(tables)))
        self.__doc__ = read.__doc__


def _mapping_items(
    node: yaml.Node | None, to_error: Callable[..., CatalogError]
) -> Iterator[tuple[str, int, yaml.Node]]:
    """Yield key, line and value of each entry of a mapping; an empty document has none."""
    if node is None:
        return
    if not isinstance(node, yaml.MappingNode):
        raise to_error("this must be a mapping", node.start_mark.line + 1, "", "write `name: value` here")
    seen: dict[str, int] = {}
    for key, value in node.value:
        name, line = str(key.value), key.start_mark.line + 1
        if name in seen:
            raise to_error(f"{name!r} is here twice, first in line {seen[name]}", line, name, "keep one of them")
        seen[name] = line
        yield name, line, value
