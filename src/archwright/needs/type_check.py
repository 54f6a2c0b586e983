"""Compares the tree with the types of `contract.needs`: unknown, missing and mistyped fields.

Walks msgspec's description of the records. It runs before msgspec.convert, which stops at the first
error in the order of the records, writes `[...]` for a key of a mapping, and suggests no spelling.
"""

import math
from functools import cache, partial

from msgspec import inspect

from archwright.contract.needs import Needs
from archwright.needs.needs_problem import (
    NeedsCode,
    NeedsProblem,
    last_field_name,
    nearest_spellings,
)
from archwright.specfile import join_path, quote_value

# No count in a needs file is larger.
MAX_NUMBER = 1e18


@cache
def needs_type_info() -> inspect.Type:
    return inspect.type_info(Needs)


def unwrap_optional(kind: inspect.Type) -> inspect.Type:
    """Return the type without `| None`."""
    if isinstance(kind, inspect.UnionType):
        for part in kind.types:
            if not isinstance(part, inspect.NoneType):
                return part
    return kind


def check_types(value: object) -> tuple[object, list[NeedsProblem]]:
    """Return the value for msgspec.convert, and problems.

    The value has `15.0e+6` as an int where one is expected.
    """
    checker = _TypeChecker()
    checked_value = checker.check_value(needs_type_info(), value, "")
    return checked_value, checker.problems


class _TypeChecker:
    def __init__(self) -> None:
        self.problems: list[NeedsProblem] = []

    def check_value(self, kind: inspect.Type, raw: object, path: str) -> object:
        match kind:
            case inspect.StructType():
                return self._check_record(kind, raw, path)
            case inspect.VarTupleType():
                return self._check_list(kind, raw, path)
            case inspect.DictType():
                return self._check_mapping(kind, raw, path)
            case inspect.LiteralType():
                return self._check_choice(kind, raw, path)
            case inspect.UnionType():
                return None if raw is None else self.check_value(unwrap_optional(kind), raw, path)
            case _:
                return self._check_scalar(kind, raw, path)

    def _check_scalar(self, kind: inspect.Type, raw: object, path: str) -> object:
        match kind:
            case inspect.IntType():
                return self._check_integer(raw, path)
            case inspect.FloatType():
                self._check_number(raw, path)
            case inspect.StrType():
                self._check_text(raw, path)
            case inspect.BoolType():
                self._check_boolean(raw, path)
            case _:
                raise TypeError(f"no check for {kind}")
        return raw

    def _add_type_problem(self, path: str, raw: object, *, expected: str, hint: str) -> None:
        message = f"{last_field_name(path)} must be {expected}, not {_describe_value(raw)}"
        remedy = hint
        if raw is None:
            remedy = "fill it in, or delete the line"
        self.problems.append(NeedsProblem(NeedsCode.WRONG_TYPE, path, message, hint=remedy))

    def _check_record(self, kind: inspect.StructType, raw: object, path: str) -> object:
        fields = {field.name: field for field in kind.fields}
        required = [field.name for field in kind.fields if field.required]
        if not isinstance(raw, dict):
            shown_fields = ", ".join(required or fields)
            hint = "write its fields below it, indented, or in { }"
            self._add_type_problem(path, raw, expected=f"a mapping ({shown_fields})", hint=hint)
            return raw

        checked: dict[str, object] = {}
        for name, value in raw.items():
            field_path = join_path(path, name)
            if name in fields:
                checked[name] = self.check_value(fields[name].type, value, field_path)
            else:
                self._add_unknown_field(field_path, name, list(fields))
        for name in required:
            if name not in raw:
                self._add_missing_field(join_path(path, name), name)
        return checked

    def _add_unknown_field(self, path: str, name: str, fields: list[str]) -> None:
        problem = NeedsProblem(
            NeedsCode.UNKNOWN_FIELD,
            path,
            f"there is no field {quote_value(name)} here",
            hint=f"use one of these fields: {', '.join(fields)}",
            suggest=partial(nearest_spellings, name, fields),
        )
        self.problems.append(problem)

    def _add_missing_field(self, path: str, name: str) -> None:
        message = f"the field {name} is missing"
        problem = NeedsProblem(
            NeedsCode.MISSING_FIELD,
            path,
            message,
            hint="add it",
            missing=True,
        )
        self.problems.append(problem)

    def _check_list(self, kind: inspect.VarTupleType, raw: object, path: str) -> object:
        if not isinstance(raw, list):
            hint = "put it in [ ], or write each item on its own line after a dash"
            self._add_type_problem(path, raw, expected="a list", hint=hint)
            return raw
        items: list[object] = []
        for index, item in enumerate(raw):
            items.append(self.check_value(kind.item_type, item, f"{path}[{index}]"))
        return items

    def _check_mapping(self, kind: inspect.DictType, raw: object, path: str) -> object:
        if not isinstance(raw, dict):
            hint = "write `name: value` below it, indented, or in { }"
            self._add_type_problem(path, raw, expected="a mapping", hint=hint)
            return raw
        values: dict[str, object] = {}
        for name, value in raw.items():
            values[name] = self.check_value(kind.value_type, value, join_path(path, name))
        return values

    def _check_choice(self, kind: inspect.LiteralType, raw: object, path: str) -> object:
        # `1 == True` in Python: the type must match, too.
        if any(type(choice) is type(raw) and choice == raw for choice in kind.values):
            return raw
        choices = list(map(str, kind.values))
        suggest = None
        if isinstance(raw, str):
            suggest = partial(nearest_spellings, raw, choices)
        problem = NeedsProblem(
            NeedsCode.NOT_A_CHOICE,
            path,
            f"{last_field_name(path)} cannot be {_describe_value(raw)}",
            hint=f"write one of: {', '.join(choices)}",
            suggest=suggest,
        )
        self.problems.append(problem)
        return raw

    def _check_integer(self, raw: object, path: str) -> object:
        """Return the number as an int if it is whole."""
        if isinstance(raw, float) and raw.is_integer():
            raw = int(raw)
        if isinstance(raw, float) and math.isfinite(raw):
            self._add_type_problem(path, raw, expected="a whole number", hint="round it")
        else:
            self._check_number(raw, path)
        return raw

    def _check_number(self, raw: object, path: str) -> None:
        if isinstance(raw, bool) or not isinstance(raw, int | float):
            hint = "write a plain number: no quotes, no unit, no thousands separator"
            self._add_type_problem(path, raw, expected="a number", hint=hint)
        elif not abs(raw) <= MAX_NUMBER:
            message = f"{last_field_name(path)} cannot be {quote_value(raw)}"
            hint = f"write a finite number of at most {MAX_NUMBER:.0e}"
            self.problems.append(NeedsProblem(NeedsCode.OUT_OF_RANGE, path, message, hint=hint))

    def _check_text(self, raw: object, path: str) -> None:
        if not isinstance(raw, str):
            self._add_type_problem(path, raw, expected="a text", hint="put it in quotes")

    def _check_boolean(self, raw: object, path: str) -> None:
        if not isinstance(raw, bool):
            hint = "write true or false, without quotes"
            self._add_type_problem(path, raw, expected="true or false", hint=hint)


def _describe_value(raw: object) -> str:
    match raw:
        case None:
            return "empty"
        case bool():
            return str(raw).lower()
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case str():
            return f"the text {quote_value(raw)}"
        case _:
            return f"the number {quote_value(raw)}"
