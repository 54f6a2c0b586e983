"""The tree held against the types of `contract.needs`: unknown, missing and mistyped fields.

Walks msgspec's description of the records. It goes before msgspec.convert, which stops at the first error in the order
of the records, says `[...]` for a key of a mapping, and suggests no spelling.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial

from msgspec import inspect

from archwright.contract.needs import Needs
from archwright.needs.needs_problem import NeedsCode, NeedsProblem, last_field_name, nearest_spellings
from archwright.specfile import join_path, quote_value

# Whole numbers stay exact in a float up to here; nothing that is counted in a needs file comes near.
MAX_NUMBER = 1e18
# The Python type of a plain value, what it is called, and how to write it.
_PLAIN_TYPES: Mapping[type[inspect.Type], tuple[type, str, str]] = {
    inspect.StrType: (str, "a text", "put it in quotes"),
    inspect.BoolType: (bool, "true or false", "write true or false, without quotes"),
}


@cache
def needs_type_info() -> inspect.Type:
    """The contract as msgspec sees it."""
    return inspect.type_info(Needs)


def unwrap_optional(kind: inspect.Type) -> inspect.Type:
    """The type behind `| None`."""
    if isinstance(kind, inspect.UnionType):
        return next(one for one in kind.types if not isinstance(one, inspect.NoneType))
    return kind


def check_types(value: object) -> tuple[object, list[NeedsProblem]]:
    """The value ready for msgspec.convert (`15.0e+6` made whole where a whole number is due), and what is wrong."""
    walk = _TypeChecker()
    return walk.check_value(needs_type_info(), value, ""), walk.problems


class _TypeChecker:
    def __init__(self) -> None:
        self.problems: list[NeedsProblem] = []
        # A dispatch table instead of a chain of tests: one entry per kind of type the contract uses.
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

    def _add_type_problem(self, path: str, due: str, raw: object, hint: str) -> None:
        message = f"{last_field_name(path)} must be {due}, not {_describe_value(raw)}"
        hint = "fill it in, or delete the line" if raw is None else hint
        self.problems.append(NeedsProblem(NeedsCode.WRONG_TYPE, path, message, hint))

    def _struct(self, kind: inspect.StructType, raw: object, path: str) -> object:
        fields = {field.name: field for field in kind.fields}
        required = [name for name, field in fields.items() if field.required]
        if not isinstance(raw, dict):
            known = ", ".join(required or fields)
            self._add_type_problem(path, f"a mapping ({known})", raw, "write its fields below it, indented, or in { }")
            return raw
        made: dict[str, object] = {}
        for name, item in raw.items():
            field, below = fields.get(name), join_path(path, name)
            if field is None:
                message, suggest = (
                    f"there is no field {quote_value(name)} here",
                    partial(nearest_spellings, name, fields),
                )
                hint = f"known here: {', '.join(fields)}"
                self.problems.append(NeedsProblem(NeedsCode.UNKNOWN_FIELD, below, message, hint, suggest))
            else:
                made[name] = self.check_value(field.type, item, below)
        for name in (one for one in required if one not in raw):
            message, below = f"the field {name} is missing", join_path(path, name)
            self.problems.append(NeedsProblem(NeedsCode.MISSING_FIELD, below, message, "add it", missing=True))
        return made

    def _list(self, kind: inspect.VarTupleType, raw: object, path: str) -> object:
        if not isinstance(raw, list):
            self._add_type_problem(path, "a list", raw, "put it in [ ], or each item on a line of its own after a dash")
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
            hint = f"one of: {', '.join(choices)}"
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
            message, hint = (
                f"{last_field_name(path)} cannot be {quote_value(raw)}",
                f"a finite number, at most {MAX_NUMBER:.0e}",
            )
            self.problems.append(NeedsProblem(NeedsCode.OUT_OF_RANGE, path, message, hint))
        return raw

    def _plain(self, kind: inspect.Type, raw: object, path: str) -> object:
        wanted, due, hint = _PLAIN_TYPES[type(kind)]
        if not isinstance(raw, wanted):
            self._add_type_problem(path, due, raw, hint)
        return raw


def _describe_value(raw: object) -> str:
    """A value as a message names it."""
    if raw is None or isinstance(raw, bool):
        return {None: "empty", True: "true", False: "false"}[raw]
    if isinstance(raw, dict | list):
        return "a mapping" if isinstance(raw, dict) else "a list"
    return f"the {'text' if isinstance(raw, str) else 'number'} {quote_value(raw)}"
