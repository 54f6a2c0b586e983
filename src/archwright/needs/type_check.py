"""Compares the tree with the types of `contract.needs`: unknown, missing and mistyped fields.

Walks msgspec's description of the records. It runs before msgspec.convert, which stops at the first error in the order
of the records, writes `[...]` for a key of a mapping, and suggests no spelling.
"""

from collections.abc import Callable, Mapping
from functools import cache, partial

from msgspec import inspect

from archwright.contract.needs import Needs
from archwright.needs.needs_problem import NeedsCode, NeedsProblem, last_field_name, nearest_spellings
from archwright.specfile import join_path, quote_value

# No count in a needs file is larger.
MAX_NUMBER = 1e18
# The Python type of a plain value, its name in messages, and the hint.
_PLAIN_TYPES: Mapping[type[inspect.Type], tuple[type, str, str]] = {
    inspect.StrType: (str, "a text", "put it in quotes"),
    inspect.BoolType: (bool, "true or false", "write true or false, without quotes"),
}


@cache
def needs_type_info() -> inspect.Type:
    return inspect.type_info(Needs)


def unwrap_optional(kind: inspect.Type) -> inspect.Type:
    """Return the type without `| None`."""
    if isinstance(kind, inspect.UnionType):
        return next(one for one in kind.types if not isinstance(one, inspect.NoneType))
    return kind


def check_types(value: object) -> tuple[object, list[NeedsProblem]]:
    """Return the value for msgspec.convert, with `15.0e+6` as an int where one is expected, and problems."""
    checker = _TypeChecker()
    return checker.check_value(needs_type_info(), value, ""), checker.problems


class _TypeChecker:
    def __init__(self) -> None:
        self.problems: list[NeedsProblem] = []
        self.checks: Mapping[type[inspect.Type], Callable[..., object]] = {
            inspect.StructType: self._struct,
            inspect.VarTupleType: self._list,
            inspect.DictType: self._mapping,
            inspect.LiteralType: self._choice,
            inspect.UnionType: self._optional,
            inspect.IntType: self._integer,
            inspect.FloatType: self._number,
            inspect.StrType: self._plain,
            inspect.BoolType: self._plain,
        }

    def check_value(self, kind: inspect.Type, raw: object, path: str) -> object:
        return self.checks[type(kind)](kind, raw, path)

    def _add_type_problem(self, path: str, expected: str, raw: object, hint: str) -> None:
        message = f"{last_field_name(path)} must be {expected}, not {_describe_value(raw)}"
        hint = "fill it in, or delete the line" if raw is None else hint
        self.problems.append(NeedsProblem(NeedsCode.WRONG_TYPE, path, message, hint))

    def _struct(self, kind: inspect.StructType, raw: object, path: str) -> object:
        fields = {field.name: field for field in kind.fields}
        required = [name for name, field in fields.items() if field.required]
        if not isinstance(raw, dict):
            known = ", ".join(required or fields)
            self._add_type_problem(path, f"a mapping ({known})", raw, "write its fields below it, indented, or in { }")
            return raw
        checked: dict[str, object] = {}
        for name, item in raw.items():
            field, field_path = fields.get(name), join_path(path, name)
            if field is None:
                suggest = partial(nearest_spellings, name, fields)
                message, hint = (
                    f"there is no field {quote_value(name)} here",
                    f"use one of these fields: {', '.join(fields)}",
                )
                self.problems.append(NeedsProblem(NeedsCode.UNKNOWN_FIELD, field_path, message, hint, suggest))
            else:
                checked[name] = self.check_value(field.type, item, field_path)
        for name in (field for field in required if field not in raw):
            message, field_path = f"the field {name} is missing", join_path(path, name)
            self.problems.append(NeedsProblem(NeedsCode.MISSING_FIELD, field_path, message, "add it", missing=True))
        return checked

    def _list(self, kind: inspect.VarTupleType, raw: object, path: str) -> object:
        if not isinstance(raw, list):
            hint = "put it in [ ], or write each item on its own line after a dash"
            self._add_type_problem(path, "a list", raw, hint)
            return raw
        return [self.check_value(kind.item_type, item, f"{path}[{index}]") for index, item in enumerate(raw)]

    def _mapping(self, kind: inspect.DictType, raw: object, path: str) -> object:
        if not isinstance(raw, dict):
            self._add_type_problem(path, "a mapping", raw, "write `name: value` below it, indented, or in { }")
            return raw
        return {name: self.check_value(kind.value_type, item, join_path(path, name)) for name, item in raw.items()}

    def _choice(self, kind: inspect.LiteralType, raw: object, path: str) -> object:
        # `1 == True` in Python: the type must match, too.
        if not any(type(choice) is type(raw) and choice == raw for choice in kind.values):
            choices = [str(choice) for choice in kind.values]
            suggest = partial(nearest_spellings, raw, choices) if isinstance(raw, str) else None
            message = f"{last_field_name(path)} cannot be {_describe_value(raw)}"
            hint = f"write one of: {', '.join(choices)}"
            self.problems.append(NeedsProblem(NeedsCode.NOT_A_CHOICE, path, message, hint, suggest))
        return raw

    def _optional(self, kind: inspect.UnionType, raw: object, path: str) -> object:
        return None if raw is None else self.check_value(unwrap_optional(kind), raw, path)

    def _integer(self, kind: inspect.IntType, raw: object, path: str) -> object:
        if isinstance(raw, float) and raw.is_integer():
            raw = int(raw)
        if isinstance(raw, float) and raw == raw and abs(raw) != float("inf"):
            self._add_type_problem(path, "a whole number", raw, "round it")
            return raw
        return self._number(kind, raw, path)

    def _number(self, kind: inspect.Type, raw: object, path: str) -> object:
        if isinstance(raw, bool) or not isinstance(raw, int | float):
            hint = "write a plain number: no quotes, no unit, no thousands separator"
            self._add_type_problem(path, "a number", raw, hint)
        elif not abs(raw) <= MAX_NUMBER:
            message = f"{last_field_name(path)} cannot be {quote_value(raw)}"
            hint = f"write a finite number of at most {MAX_NUMBER:.0e}"
            self.problems.append(NeedsProblem(NeedsCode.OUT_OF_RANGE, path, message, hint))
        return raw

    def _plain(self, kind: inspect.Type, raw: object, path: str) -> object:
        expected, name, hint = _PLAIN_TYPES[type(kind)]
        if not isinstance(raw, expected):
            self._add_type_problem(path, name, raw, hint)
        return raw


def _describe_value(raw: object) -> str:
    if raw is None or isinstance(raw, bool):
        return {None: "empty", True: "true", False: "false"}[raw]
    if isinstance(raw, dict | list):
        return "a mapping" if isinstance(raw, dict) else "a list"
    return f"the {'text' if isinstance(raw, str) else 'number'} {quote_value(raw)}"
