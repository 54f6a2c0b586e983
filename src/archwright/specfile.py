"""Strict YAML with the line of every value; small files (a recipe, a training spec) to records.

One document without aliases, anchors, tags and merge keys, no field twice; plain values as YAML 1.2 reads them (`NO` is
a text). Design: libyaml's events are read one by one without recursion, so a YAML bomb, deep nesting or a flood of
entries is refused at its first surplus event. 5,000 open brackets or 256 KB of any YAML take well under a second.
PyYAML's pure parser is too slow for the deadline of 2 s, so nothing is read without libyaml.
"""

import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import msgspec
import yaml

from archwright.errors import ArchwrightError, ErrorLocation, MissingError, from_os_error
from archwright.scalars import resolve_scalar

R = TypeVar("R")

SPEC_SIZE_BYTES = 64 * 1024
MAX_DEPTH = 32
MAX_ENTRIES = 20_000
MAX_KEY_CHARACTERS = 80
SHOWN_CHARACTERS = 60
# Digits after each comma of a number that is written with thousands separators.
THOUSANDS_DIGITS = 3
# Line breaks, tabs and two invisible characters that join letters in several scripts; other invisible ones are refused.
_READABLE = frozenset("\n\t\u200c\u200d")
_REFUSED_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Cn", "Zl", "Zp"})

ErrorFactory = Callable[[str, ErrorLocation], ArchwrightError]
"""Makes the caller's error, with its own code and hint, from a message and a place."""
YamlFault = Literal["syntax", "refused", "size", "text", "duplicate"]


class SpecLimits(NamedTuple):
    """The largest file that is read: its bytes, and the values and containers in it."""

    size_bytes: int = SPEC_SIZE_BYTES
    entries: int = MAX_ENTRIES


USUAL_LIMITS = SpecLimits()


class YamlProblem(ValueError):
    """The first thing wrong with a document: what kind of fault, at which path and line, and what to do."""

    def __init__(self, fault: YamlFault, path: str, line: int, message: str, hint: str) -> None:
        super().__init__(message)
        self.fault: YamlFault = fault
        self.path, self.line, self.hint = path, line, hint


class YamlTree(NamedTuple):
    """Plain values and the line of every path in file order.

    `ends` counts the paths before the end of each container, so that a missing field sorts after the fields of it.
    """

    value: object
    lines: dict[str, int]
    ends: dict[str, int]


def join_path(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def enclosing_paths(path: str) -> Iterator[str]:
    """Yield the path itself, then each container around it, ending with the root."""
    while path:
        yield path
        cut = max(path.rfind("."), path.rfind("["))
        path = path[: max(cut, 0)]
    yield ""


def quote_value(value: object) -> str:
    """Format a value of a file for a message: short, quoted, without control characters."""
    text = value if isinstance(value, str) else str(value)
    if len(text) > SHOWN_CHARACTERS:
        text = text[: SHOWN_CHARACTERS - 3] + "..."
    text = "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text)
    return f'"{text}"' if isinstance(value, str) else text


class _Container:
    """A mapping or list that is still open; `key` waits for its value."""

    def __init__(self, path: str, value: dict[str, object] | list[object]) -> None:
        self.path = path
        self.value = value
        self.key: str | None = None
        self.key_line = 0

    @property
    def awaits_key(self) -> bool:
        return isinstance(self.value, dict) and self.key is None

    def child_path(self) -> str:
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
    def __init__(self, max_entries: int) -> None:
        self._max_entries = max_entries
        self.tree = YamlTree(None, {}, {})
        self.open: list[_Container] = []
        self.documents = 0
        self.entries = 0

    def problem(self, fault: YamlFault, line: int, message: str, hint: str) -> YamlProblem:
        return YamlProblem(fault, self.open[-1].child_path() if self.open else "", line, message, hint)

    def feed(self, event: yaml.Event) -> None:
        line = _line_number(event.start_mark)
        if isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                hint = "keep one document per file: delete everything from the second --- on"
                raise self.problem("refused", line, "more than one YAML document", hint)
            if event.tags:
                raise self.problem("refused", line, "a %TAG directive is not read", "delete it")
        elif isinstance(event, yaml.AliasEvent):
            raise self.problem("refused", line, "aliases (*name) are not read", "write the value out")
        elif isinstance(event, yaml.CollectionEndEvent):
            self.tree.ends[self.open.pop().path] = len(self.tree.lines)
        elif isinstance(event, yaml.NodeEvent):
            self._check_node(event, line)
            if isinstance(event, yaml.ScalarEvent):
                self._add_scalar(event, line)
            else:
                parent = self.open[-1] if self.open else None
                if parent is not None and parent.awaits_key:
                    message = "a field's name is a list or a mapping"
                    raise self.problem("refused", line, message, "write the name of the field as a text")
                if len(self.open) >= MAX_DEPTH:
                    raise self._depth_problem(line)
                value: dict[str, object] | list[object] = {} if isinstance(event, yaml.MappingStartEvent) else []
                # The line of a container is the line of its field's name, not of its first entry.
                path = self._add(value, parent.key_line if parent and isinstance(parent.value, dict) else line)
                self.open.append(_Container(path, value))

    def _check_node(self, event: yaml.NodeEvent, line: int) -> None:
        """Refuse anchors, tags and too many entries."""
        self.entries += 1
        if self.entries > self._max_entries:
            hint = "state totals and averages, not single records"
            raise self.problem("size", line, f"more than {self._max_entries} entries", hint)
        if event.anchor is not None:
            hint = "write the value out where it is used"
            raise self.problem("refused", line, "anchors (&name) are not read", hint)
        if getattr(event, "tag", None) is not None:
            hint = "write a plain value; quotes make a text"
            raise self.problem("refused", line, "tags (!name) are not read", hint)

    def _depth_problem(self, line: int) -> YamlProblem:
        hint = f"use at most {MAX_DEPTH} levels"
        return self.problem("refused", line, "lists and mappings are nested too deeply", hint)

    def _add_scalar(self, event: yaml.ScalarEvent, line: int) -> None:
        text: str = event.value
        plain = bool(event.implicit[0])
        parent = self.open[-1] if self.open else None
        if parent is not None and parent.awaits_key:
            self._add_key(parent, text, plain, line)
            return
        odd = (char for char in text if not char.isprintable() and char not in _READABLE)
        if bad := next((char for char in odd if unicodedata.category(char) in _REFUSED_CATEGORIES), None):
            message = f"the text contains the invisible character U+{ord(bad):04X}"
            raise self.problem("text", line, message, "delete it and type the text again")
        empty_field = plain and not text and parent is not None and isinstance(parent.value, dict)
        self._add(resolve_scalar(text) if plain else text, parent.key_line if parent and empty_field else line)

    def _add_key(self, parent: _Container, text: str, plain: bool, line: int) -> None:
        if plain and text == "<<":
            raise self.problem("refused", line, "merge keys (<<) are not read", "write the fields out")
        if plain and not isinstance(resolve_scalar(text), str):
            message = f"the field name {quote_value(text)} is not a text"
            before = next(reversed(parent.value.values()), None) if isinstance(parent.value, dict) else None
            # A comma in {users: 100,000} ends the value.
            cut = text.isdigit() and len(text) == THOUSANDS_DIGITS and isinstance(before, int)
            hint = f"write the number before it without a comma: {before}{text}" if cut else "put it in quotes"
            raise self.problem("refused", line, message, hint)
        if not text or len(text) > MAX_KEY_CHARACTERS or not text.isprintable():
            hint = f"use 1 to {MAX_KEY_CHARACTERS} visible characters"
            raise self.problem("text", line, f"the field name {quote_value(text)} is not usable", hint)
        first = self.tree.lines.get(join_path(parent.path, text))
        parent.key, parent.key_line = text, line
        if text in parent.value:
            message = f"the field {quote_value(text)} is there a second time; the first is on line {first}"
            raise self.problem("duplicate", line, message, "keep one of the two")

    def _add(self, value: object, line: int) -> str:
        """Add a value to the innermost container; return its path."""
        path = self.open[-1].child_path() if self.open else ""
        self.tree.lines[path] = line
        if self.open:
            self.open[-1].add(value)
        else:
            self.tree = self.tree._replace(value=value)
        return path


def _line_number(mark: object) -> int:
    """Return the line of a mark of libyaml or PyYAML, 1 without a mark."""
    return int(getattr(mark, "line", 0)) + 1


def parse_yaml(text: str, max_entries: int = MAX_ENTRIES) -> YamlTree:
    """Parse one document. Raises YamlProblem for the first fault, MissingError AW-GET-11 without libyaml."""
    loader = getattr(yaml, "CSafeLoader", None)
    if loader is None:
        hint = "pip install --force-reinstall --only-binary pyyaml pyyaml"
        raise MissingError("AW-GET-11", "this PyYAML was built without its C parser", hint=hint)
    builder = _TreeBuilder(max_entries)
    try:
        for event in yaml.parse(text, Loader=loader):
            builder.feed(event)
    except yaml.YAMLError as error:
        line = _line_number(getattr(error, "problem_mark", None))
        message = str(getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be read")
        if "nesting depth" in message:
            raise builder._depth_problem(line) from error
        hint = "check indentation (spaces, no tabs), brackets, quotes and colons there"
        raise builder.problem("syntax", line, f"this is not YAML: {message}", hint) from error
    return builder.tree


def read_packaged_yaml(path: Path, kind: type[R]) -> R:
    """Return a YAML table of our own as `kind`; it may be longer than a user's file."""
    return msgspec.convert(yaml.load(path.read_bytes(), Loader=yaml.CSafeLoader), kind)


def read_tree(path: Path, refuse: ErrorFactory, limits: SpecLimits = USUAL_LIMITS) -> YamlTree:
    """Return the mapping in a file. Raises what `refuse` makes; OSErrors become OperateError or UsageError."""
    try:
        with path.open("rb") as file:
            raw = file.read(limits.size_bytes + 1)
    except OSError as error:
        raise from_os_error(error) from error
    if len(raw) > limits.size_bytes:
        raise refuse(f"the file is larger than {limits.size_bytes} bytes", ErrorLocation(str(path)))
    try:
        tree = parse_yaml(raw.decode("utf-8"), limits.entries)
    except UnicodeDecodeError as error:
        raise refuse("the file is not UTF-8 text", ErrorLocation(str(path))) from error
    except YamlProblem as error:
        raise refuse(f"{error}: {error.hint}", ErrorLocation(str(path), error.line, error.path or None)) from error
    if not isinstance(tree.value, dict):
        raise refuse("the file must be a mapping of fields", ErrorLocation(str(path), 1))
    return tree


def find_line(tree: YamlTree, field: str) -> int | None:
    """Return the line of a field, or of what it should be in."""
    return next((tree.lines[above] for above in enclosing_paths(field) if above in tree.lines), None)


def read_spec(path: Path, kind: type[R], refuse: ErrorFactory) -> R:
    """Return the file's record. Raises like `read_tree`."""
    tree = read_tree(path, refuse)
    try:
        return msgspec.convert(tree.value, kind)
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `")
        field = place.strip("`$").lstrip(".")
        raise refuse(message, ErrorLocation(str(path), find_line(tree, field), field or None)) from error
