"""YAML text -> plain values and the line of each of them.

Reads libyaml's events one by one and never recurses: an alias (a YAML bomb), a tag, deep nesting or a flood of entries
is refused where it stands. 5,000 open brackets or 256 KB of any YAML take well under a second. PyYAML's pure parser is
too slow for the deadline of 2 s, so without libyaml nothing is read.
"""

from __future__ import annotations

import unicodedata
from typing import Protocol

import yaml

from archwright.errors import MissingError, NeedsError
from archwright.needs.needs_problem import NeedsCode, NeedsProblem, NeedsTree, join_path, quote_value, to_error
from archwright.scalars import resolve_scalar

MAX_DEPTH = 32
MAX_ENTRIES = 20_000
MAX_KEY_CHARACTERS = 80

# Invisible characters that join letters in several scripts; every other format or control character is refused.
_JOINERS = frozenset("\u200c\u200d")
_REFUSED_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Cn", "Zl", "Zp"})

_DEEP = "lists and mappings are nested too deeply"
_DEEP_HINT = f"a needs file has at most {MAX_DEPTH} levels"


class _Mark(Protocol):
    """Where libyaml or PyYAML stands: two classes of one shape."""

    line: int


class _Container:
    """A mapping or list that is still open; `key` waits for its value."""

    def __init__(self, path: str, value: dict[str, object] | list[object]) -> None:
        self.path = path
        self.value = value
        self.key: str | None = None
        self.key_line = 0

    def child(self) -> str:
        if isinstance(self.value, list):
            return f"{self.path}[{len(self.value)}]"
        return self.path if self.key is None else join_path(self.path, self.key)

    def add(self, value: object) -> None:
        if isinstance(self.value, list):
            self.value.append(value)
        else:
            self.value[self.key or ""] = value
            self.key = None


class _TreeBuilder:
    def __init__(self, file: str) -> None:
        self.file = file
        self.lines: dict[str, int] = {}
        self.ends: dict[str, int] = {}
        self.open: list[_Container] = []
        self.root: object = None
        self.documents = 0
        self.entries = 0

    def path(self) -> str:
        return self.open[-1].child() if self.open else ""

    def refuse(self, code: str, line: int, message: str, hint: str) -> NeedsError:
        path = self.path()
        place = NeedsTree(self.file, None, {path: line}, {})
        return to_error(NeedsProblem(code, path, message, hint), place)

    def feed(self, event: yaml.Event) -> None:
        line = _line_number(event.start_mark)
        if isinstance(event, yaml.DocumentStartEvent):
            self._document(event, line)
        elif isinstance(event, yaml.AliasEvent):
            raise self.refuse(NeedsCode.REFUSED_YAML, line, "aliases (*name) are not read", "write the value out")
        elif isinstance(event, yaml.CollectionEndEvent):
            self.ends[self.open.pop().path] = len(self.lines)
        elif isinstance(event, yaml.NodeEvent):
            self._check_node(event, line)
            if isinstance(event, yaml.ScalarEvent):
                self._scalar(event, line)
            else:
                self._container(event, line)

    def _document(self, event: yaml.DocumentStartEvent, line: int) -> None:
        self.documents += 1
        if self.documents > 1:
            hint = "keep one document a file: delete what follows the second ---"
            raise self.refuse(NeedsCode.REFUSED_YAML, line, "more than one YAML document", hint)
        if event.tags:
            raise self.refuse(NeedsCode.REFUSED_YAML, line, "a %TAG directive is not read", "delete it")

    def _check_node(self, event: yaml.NodeEvent, line: int) -> None:
        """No anchors, no tags, not too many entries."""
        self.entries += 1
        if self.entries > MAX_ENTRIES:
            hint = "a needs file describes workloads, not single records"
            raise self.refuse(NeedsCode.TOO_LARGE, line, f"more than {MAX_ENTRIES} entries", hint)
        if event.anchor is not None:
            hint = "write the value out where it is used"
            raise self.refuse(NeedsCode.REFUSED_YAML, line, "anchors (&name) are not read", hint)
        if getattr(event, "tag", None) is not None:
            hint = "write a plain value; quotes make a text"
            raise self.refuse(NeedsCode.REFUSED_YAML, line, "tags (!name) are not read", hint)

    def _container(self, event: yaml.NodeEvent, line: int) -> None:
        parent = self.open[-1] if self.open else None
        if parent is not None and isinstance(parent.value, dict) and parent.key is None:
            message = "a field's name is a list or a mapping"
            raise self.refuse(NeedsCode.REFUSED_YAML, line, message, "names of fields are texts")
        if len(self.open) >= MAX_DEPTH:
            raise self.refuse(NeedsCode.REFUSED_YAML, line, _DEEP, _DEEP_HINT)
        value: dict[str, object] | list[object] = {} if isinstance(event, yaml.MappingStartEvent) else []
        path = self.path()
        # A container stands where its field's name stands, not where its first entry does.
        self.lines[path] = parent.key_line if parent is not None and isinstance(parent.value, dict) else line
        self._add_value(value)
        self.open.append(_Container(path, value))

    def _scalar(self, event: yaml.ScalarEvent, line: int) -> None:
        text: str = event.value
        plain = bool(event.implicit[0])
        parent = self.open[-1] if self.open else None
        if parent is not None and isinstance(parent.value, dict) and parent.key is None:
            self._key(parent, text, plain, line)
            return
        if bad := next((char for char in text if _is_refused(char) and char not in "\n\t"), None):
            message = f"the text holds the invisible character U+{ord(bad):04X}"
            raise self.refuse(NeedsCode.BAD_TEXT, line, message, "delete it and type the text again")
        empty_field = plain and not text and parent is not None and isinstance(parent.value, dict)
        self.lines[self.path()] = parent.key_line if empty_field and parent is not None else line
        self._add_value(resolve_scalar(text) if plain else text)

    def _key(self, parent: _Container, text: str, plain: bool, line: int) -> None:
        if plain and text == "<<":
            raise self.refuse(NeedsCode.REFUSED_YAML, line, "merge keys (<<) are not read", "write the fields out")
        if plain and not isinstance(resolve_scalar(text), str):
            message = f"the field name {quote_value(text)} is not a text"
            raise self.refuse(NeedsCode.REFUSED_YAML, line, message, "put it in quotes")
        if not text or len(text) > MAX_KEY_CHARACTERS or not text.isprintable():
            hint = f"1 to {MAX_KEY_CHARACTERS} visible characters"
            raise self.refuse(NeedsCode.BAD_TEXT, line, f"the field name {quote_value(text)} is not usable", hint)
        mapping = parent.value
        path = join_path(parent.path, text)
        first = self.lines.get(path)
        parent.key, parent.key_line = text, line
        if text in mapping:
            message = f"{quote_value(text)} stands here a second time; the first is on line {first}"
            raise self.refuse(NeedsCode.DUPLICATE_KEY, line, message, "keep one of the two")

    def _add_value(self, value: object) -> None:
        if self.open:
            self.open[-1].add(value)
        else:
            self.root = value


def _is_refused(char: str) -> bool:
    return not char.isprintable() and char not in _JOINERS and unicodedata.category(char) in _REFUSED_CATEGORIES


def _line_number(mark: _Mark | None) -> int:
    return 1 if mark is None else mark.line + 1


def read_tree(text: str, file: str) -> NeedsTree:
    """Values and lines of one YAML document whose top is a mapping."""
    loader = getattr(yaml, "CSafeLoader", None)
    if loader is None:
        hint = "pip install --force-reinstall --only-binary pyyaml pyyaml"
        raise MissingError("AW-GET-11", "this PyYAML was built without its C parser", hint=hint)
    builder = _TreeBuilder(file)
    try:
        for event in yaml.parse(text, Loader=loader):
            builder.feed(event)
    except yaml.YAMLError as error:
        raise _syntax_error(error, builder) from error
    tree = NeedsTree(file, builder.root, builder.lines, builder.ends)
    if tree.value is None:
        # Nothing stands anywhere: libyaml's mark is where the file ends.
        tree.lines[""] = 1
        hint = "`archwright init` writes one to start from"
        raise to_error(NeedsProblem(NeedsCode.EMPTY, "", "the needs file is empty", hint), tree)
    if not isinstance(tree.value, dict):
        hint = "start with `version: 1`; `archwright init` writes a whole file"
        raise to_error(NeedsProblem(NeedsCode.EMPTY, "", "the needs file is not a mapping of fields", hint), tree)
    return tree


def _syntax_error(error: yaml.YAMLError, builder: _TreeBuilder) -> NeedsError:
    line = _line_number(getattr(error, "problem_mark", None))
    problem = str(getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be read")
    if "nesting depth" in problem:
        return builder.refuse(NeedsCode.REFUSED_YAML, line, _DEEP, _DEEP_HINT)
    hint = "check indentation (spaces, no tabs), brackets, quotes and colons there"
    return builder.refuse(NeedsCode.NOT_YAML, line, f"this is not YAML: {problem}", hint)
