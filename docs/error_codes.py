"""Read every error code from the source, with the templates of its messages and hints.

A template is the text at the raise site, with `{name}` for a value that is filled in. Codes behind a constant
(`needs/needs_problem.py`) and messages that a helper receives as a parameter are followed to the calls.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

CODE = re.compile(r"AW-[A-Z]+-\d\d")
# Parameters whose name says what they hold; `message` first.
MESSAGE_NAMES = ("message", "what", "reason", "problem", "text", "hint", "why", "kind", "noun")
Function = ast.FunctionDef | ast.AsyncFunctionDef


class ErrorText(NamedTuple):
    """The texts of one raise site: templates of the message and of the hint."""

    message: str
    hint: str


def read_error_codes(source: Path) -> dict[str, list[ErrorText]]:
    """Return the texts of each code under a package, sorted by code, each text once in the order of the source."""
    modules = [ast.parse(path.read_text(encoding="utf-8")) for path in sorted(source.rglob("*.py"))]
    shared = {name: text for module in modules for name, text in _find_constants(module)}
    found: dict[str, list[ErrorText]] = {}
    for module in modules:
        inlined = _ConstantInliner({**shared, **dict(_find_constants(module))}).visit(module)
        for code, text in _find_raise_sites(inlined):
            texts = found.setdefault(code, [])
            if text.message and text not in texts:
                texts.append(text)
    return dict(sorted(found.items()))


def _find_constants(module: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    """Yield the constants that hold a text: codes, and messages or hints that several raise sites share."""
    for node in ast.walk(module):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if name.isupper() and isinstance(node.value, ast.Constant | ast.JoinedStr | ast.BinOp):
                yield name, node.value


class _ConstantInliner(ast.NodeTransformer):
    """Replaces the use of a constant by its value."""

    def __init__(self, constants: dict[str, ast.expr]) -> None:
        self._constants = constants

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self._constants.get(node.id, node) if isinstance(node.ctx, ast.Load) else node

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        return self._constants.get(node.attr, node)


def _find_raise_sites(module: ast.Module) -> Iterator[tuple[str, ErrorText]]:
    calls_of: dict[str, list[tuple[ast.Call, Function | None]]] = {}
    sites: list[tuple[str, ast.Call, Function | None]] = []
    for call, function in _find_calls(module, None):
        calls_of.setdefault(_last_name(call.func), []).append((call, function))
        for argument in call.args:
            value = argument.value if isinstance(argument, ast.Constant) else None
            if isinstance(value, str) and CODE.fullmatch(value):
                sites.append((value, call, function))
    for code, call, function in sites:
        text = _read_call(call, function)
        parameters = _list_parameters(function)
        texts = {name for name in parameters if name in MESSAGE_NAMES}
        if function is None or not any(f"{{{name}}}" in text.message + text.hint for name in texts):
            yield code, text
            continue
        for caller, outer in calls_of.get(function.name, []) or [(call, function)]:
            defaults = function.args.defaults
            names = [argument.arg for argument in function.args.args][-len(defaults) :] if defaults else []
            passed = {name: _read_template(value, None) for name, value in zip(names, defaults, strict=True)}
            passed |= dict(zip(parameters, (_read_template(one, outer) for one in caller.args), strict=False))
            passed |= {one.arg: _read_template(one.value, outer) for one in caller.keywords if one.arg}
            message, hint = text
            for name, value in passed.items():
                if value:
                    message, hint = message.replace(f"{{{name}}}", value), hint.replace(f"{{{name}}}", value)
            yield code, ErrorText(message, hint)


def _list_parameters(function: Function | None) -> list[str]:
    """Return the parameters that a caller states, those by position first."""
    if function is None:
        return []
    arguments = (*function.args.args, *function.args.kwonlyargs)
    return [argument.arg for argument in arguments if argument.arg != "self"]


def _find_calls(node: ast.AST, function: Function | None) -> Iterator[tuple[ast.Call, Function | None]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Call):
            yield child, function
        yield from _find_calls(child, child if isinstance(child, Function) else function)


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _read_call(call: ast.Call, function: Function | None) -> ErrorText:
    """Message and hint of a call: its first and second text, or what its keywords say."""
    texts = [_read_template(argument, function) for argument in call.args]
    sentences = [text for text in texts if " " in text or text.strip("{}") in MESSAGE_NAMES]
    named = {keyword.arg: _read_template(keyword.value, function) for keyword in call.keywords}
    message = named.get("message") or (sentences or [""])[0]
    hint = named.get("hint") or (sentences[1] if len(sentences) > 1 else "")
    return ErrorText(message, hint)


def _read_template(node: ast.expr, function: Function | None) -> str:
    """The text of an expression with `{name}` for its values; alternatives are joined by ` / `."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) and not CODE.fullmatch(node.value) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(
            f"{{{_name_value(part.value)}}}" if isinstance(part, ast.FormattedValue) else _read_template(part, None)
            for part in node.values
        )
    if isinstance(node, ast.IfExp):
        return " / ".join(filter(None, (_read_template(node.body, function), _read_template(node.orelse, function))))
    if isinstance(node, ast.BoolOp):
        texts = [_read_template(value, function) for value in node.values]
        return " / ".join(text for text in texts if " " in text)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _read_template(node.left, function) + _read_template(node.right, function)
    if isinstance(node, ast.Name):
        values = [_read_template(value, None) for value in _find_assigned_values(node, function)]
        return " / ".join(dict.fromkeys(filter(None, values))) or f"{{{node.id}}}"
    return ""


def _find_assigned_values(name: ast.Name, function: Function | None) -> list[ast.expr]:
    """The values that a local name can have at its use.

    The last assignment in a block around the use counts, and the assignments in nested blocks after it.
    """
    assigned: list[tuple[bool, int, ast.expr]] = []

    def visit(node: ast.AST) -> None:
        around = node.lineno <= name.lineno <= (node.end_lineno or 0) if isinstance(node, ast.stmt) else True
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Assign) and child.lineno < name.lineno:
                targets = [part for target in child.targets for part in ast.walk(target) if isinstance(part, ast.Name)]
                if any(target.id == name.id for target in targets):
                    value = child.value
                    if isinstance(child.targets[0], ast.Tuple) and isinstance(value, ast.Tuple):
                        names = [getattr(part, "id", "") for part in child.targets[0].elts]
                        value = value.elts[names.index(name.id)]
                    assigned.append((around, child.lineno, value))
            visit(child)

    if function is not None:
        visit(function)
    last = max((line for around, line, _ in assigned if around), default=0)
    return [value for _, line, value in assigned if line >= last]


# Functions around a value in a message, with the noun that a reader understands.
_NOUNS = {"join": "list", "splitlines": "reason", "get": "value", "ord": "code", "removeprefix": "name"}


def _name_value(node: ast.expr) -> str:
    """A short name for a filled-in value: the noun of a known function, else the last name of its first term."""
    names = [_last_name(part) for part in ast.walk(node) if isinstance(part, ast.Name | ast.Attribute)]
    words = [name.strip("_") for name in names if name and name not in {"self", "len", "str", "sorted", "map"}]
    return next((_NOUNS[word] for word in words if word in _NOUNS), words[0] if words else "value").lower()
