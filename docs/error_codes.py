"""Read every error code from the source, with the templates of its messages and hints.

A template is the text at the raise site, with `{name}` for a value that is filled in. Codes behind a constant
(`needs/needs_problem.py`) and messages that a helper receives as a parameter are followed to the calls.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

CODE = re.compile(r"AW-[A-Z]+-\d\d")
# Parameters whose name says what they hold; `message` first.
MESSAGE_NAMES = ("message", "what", "reason", "problem", "text")
Function = ast.FunctionDef | ast.AsyncFunctionDef


class ErrorText(NamedTuple):
    """The texts of one raise site: templates of the message and of the hint."""

    message: str
    hint: str


def read_error_codes(source: Path) -> dict[str, list[ErrorText]]:
    """Return the texts of each code under a package, sorted by code, each text once in the order of the source."""
    modules = [ast.parse(path.read_text(encoding="utf-8")) for path in sorted(source.rglob("*.py"))]
    constants = dict(_find_code_constants(modules))
    found: dict[str, list[ErrorText]] = {}
    for module in modules:
        for code, text in _find_raise_sites(module, constants):
            texts = found.setdefault(code, [])
            if text.message and text not in texts:
                texts.append(text)
    return dict(sorted(found.items()))


def _find_code_constants(modules: Iterable[ast.Module]) -> Iterator[tuple[str, str]]:
    for node in (node for module in modules for node in ast.walk(module) if isinstance(node, ast.Assign)):
        value = node.value.value if isinstance(node.value, ast.Constant) else None
        if isinstance(node.targets[0], ast.Name) and isinstance(value, str) and CODE.fullmatch(value):
            yield node.targets[0].id, value


def _find_raise_sites(module: ast.Module, constants: dict[str, str]) -> Iterator[tuple[str, ErrorText]]:
    calls_of: dict[str, list[tuple[ast.Call, Function | None]]] = {}
    sites: list[tuple[str, ast.Call, Function | None]] = []
    for call, function in _find_calls(module, None):
        calls_of.setdefault(_last_name(call.func), []).append((call, function))
        for argument in call.args:
            value = argument.value if isinstance(argument, ast.Constant) else constants.get(_last_name(argument))
            if isinstance(value, str) and CODE.fullmatch(value):
                sites.append((value, call, function))
    for code, call, function in sites:
        message, hint = _read_call(call, function)
        parameters = [argument.arg for argument in function.args.args if argument.arg != "self"] if function else []
        passed = next((name for name in parameters if message == f"{{{name}}}"), None)
        if passed is None:
            yield code, ErrorText(message, hint)
            continue
        index = parameters.index(passed)
        for caller, outer in calls_of.get(function.name if function else "", []):
            arguments = [*caller.args, *(keyword.value for keyword in caller.keywords if keyword.arg == passed)]
            texts = [_read_template(argument, outer) for argument in arguments[index:]]
            sentences = [text for text in texts if " " in text]
            yield code, ErrorText(sentences[0] if sentences else "", sentences[1] if len(sentences) > 1 else hint)


def _find_calls(node: ast.AST, function: Function | None) -> Iterator[tuple[ast.Call, Function | None]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Call):
            yield child, function
        yield from _find_calls(child, child if isinstance(child, Function) else function)


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _read_call(call: ast.Call, function: Function | None) -> tuple[str, str]:
    """Message and hint of a call: its first and second text, or what its keywords say."""
    texts = [_read_template(argument, function) for argument in call.args]
    sentences = [text for text in texts if " " in text]
    named = {keyword.arg: _read_template(keyword.value, function) for keyword in call.keywords}
    plain = [text for text in texts if text.strip("{}") in MESSAGE_NAMES]
    message = named.get("message") or (sentences or plain or [""])[0]
    hint = named.get("hint") or (sentences[1] if len(sentences) > 1 else "")
    return message, hint if " " in hint else ""


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


def _name_value(node: ast.expr) -> str:
    """A short name for a filled-in value: the last name in its expression."""
    names = [_last_name(part) for part in ast.walk(node) if isinstance(part, ast.Name | ast.Attribute)]
    words = [name.strip("_") for name in names if name and name not in {"self", "len", "str", "sorted", "map"}]
    return words[0] if words else "value"
