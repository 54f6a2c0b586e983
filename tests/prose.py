"""Check the language of what people read: strings, docstrings and comments of the source, data tables, documents.

    python -m tests.prose PATH...   prints file:line, what is wrong, and the sentence

A string of a program counts as text for users if it has at least four words. A placeholder counts as one word.
Sentences end at a full stop, a question mark, an exclamation mark or a line's end. CONTRIBUTING.md gives the rules.
"""

from __future__ import annotations

import ast
import io
import json
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

MOST_WORDS = 25
TEXT_WORDS = 4
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(`*\[]?[A-Z{<`0-9-]|\[|archwright\b)|\n")
_WORD = re.compile(r"[^\s/|=+*-]*[A-Za-z0-9][^\s]*")
_UNBOUND = re.compile(r"(?:Who|Whoever|Whose|Whom|What|Whatever|Of|Where)\b")
_METAPHORS = re.compile(
    r"\b(?:in|outside|inside|of|to|from|beside) the house\b|\bin[- ]house\b|\bwhoever\b|\bwho of\b|\bof whom\b"
    r"|\bthe (?:till|door|doors|books|keeper|crew|lane|lanes)\b|\bthe wrong one's\b|\bof it who\b"
    r"|\bevent[- ]loop turn\b|\bturn of the event loop\b|\bin hand\b|\bhangs on\b|\bagain for more\b",
    re.IGNORECASE,
)


class Finding(NamedTuple):
    """One sentence that breaks a rule."""

    line: int
    problem: str
    text: str


def check_text(text: str, line: int, most_words: int | None = MOST_WORDS) -> Iterator[Finding]:
    """Check the sentences of a text; `most_words` None: any length."""
    for sentence in _SENTENCE_END.split(text):
        sentence = sentence.strip()
        words = len(_WORD.findall(sentence))
        if most_words is not None and words > most_words:
            yield Finding(line, f"{words} words", sentence)
        if _UNBOUND.match(sentence) and not sentence.endswith("?") and words >= TEXT_WORDS:
            yield Finding(line, "starts with an unbound word", sentence)
        if found := _METAPHORS.search(sentence):
            yield Finding(line, f"metaphor: {found.group()}", sentence)


def check_python(path: Path) -> Iterator[Finding]:
    """Check the strings of a module (25 words), its docstrings and its comments (any length)."""
    source = path.read_text()
    nodes = list(ast.walk(ast.parse(source)))
    docstrings = {
        id(node.body[0].value)
        for node in nodes
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    parts = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in nodes:
        if id(node) in docstrings and isinstance(node, ast.Constant):
            if isinstance(node.value, str):
                joined = " ".join(node.value.split())
                yield from check_text(joined, node.lineno, None)
                if joined.startswith("Whether "):
                    yield Finding(node.lineno, 'write "True if"', joined[:80])
        elif isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and id(node) not in parts):
            text = _read_string(node)
            if len(_WORD.findall(text)) >= TEXT_WORDS:
                yield from check_text(text, node.lineno)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield from check_text(token.string.lstrip("#: "), token.start[0], None)


def _read_string(node: ast.expr) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(_read_string(part) if isinstance(part, ast.Constant) else "X" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def check_markdown(path: Path) -> Iterator[Finding]:
    """Check the paragraphs, list items and table cells of a document; code blocks are left out."""
    yield from check_markdown_text(path.read_text())


def check_markdown_text(text: str) -> Iterator[Finding]:
    paragraph: list[str] = []
    start, in_code = 1, False
    for number, line in enumerate([*text.splitlines(), ""], 1):
        if line.lstrip().startswith("```"):
            in_code = not in_code
            line = ""
        elif in_code:
            continue
        begins = re.match(r"\s*(?:[-*|#>]|\d+\.)\s*", line)
        if paragraph and (not line.strip() or begins):
            yield from check_text(" ".join(paragraph), start)
            paragraph = []
        if line.lstrip().startswith("|"):
            for cell in line.strip().strip("|").split("|"):
                yield from check_text(cell.strip(), number)
        elif line.strip():
            start = start if paragraph else number
            paragraph.append(line[begins.end() :].strip() if begins and not paragraph else line.strip())


def check_yaml(path: Path) -> Iterator[Finding]:
    """Check the string values of a YAML file that have at least four words.

    A block of lines (`|`) is a document of a template if it has headings; of any other one only the comments are read.
    """
    for event in yaml.parse(path.read_text(), Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.ScalarEvent) and event.style == "|":
            yield from _check_block(event.value, event.start_mark.line + 1 if event.start_mark else 0)
        elif isinstance(event, yaml.ScalarEvent) and len(_WORD.findall(event.value)) >= TEXT_WORDS:
            yield from check_text(" ".join(event.value.split()), event.start_mark.line + 1 if event.start_mark else 0)


def _check_block(text: str, start: int) -> Iterator[Finding]:
    """Check a file that a template writes; a placeholder counts as one word, a line of a directive as none."""
    text = re.sub(r"<<.*?>>", "X", re.sub(r"^\s*<%.*?%>\s*$", "", text, flags=re.MULTILINE))
    if re.search(r"^## ", text, flags=re.MULTILINE):
        for finding in check_markdown_text(text):
            yield finding._replace(line=start + finding.line)
        return
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("# "):
            yield from check_text(line.lstrip("# "), start + number)


def check_json(path: Path) -> Iterator[Finding]:
    """Check the strings of a JSON file that have at least four words; the place is unknown, so the line is 0."""
    values: list[object] = [json.loads(path.read_text())]
    while values:
        value = values.pop()
        if isinstance(value, dict | list):
            values += value.values() if isinstance(value, dict) else value
        elif isinstance(value, str) and len(_WORD.findall(value)) >= TEXT_WORDS:
            yield from check_text(value, 0)


CHECKERS = {".py": check_python, ".md": check_markdown, ".yaml": check_yaml, ".json": check_json}


def find_files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(file for file in path.rglob("*") if file.suffix in CHECKERS)
        elif path.suffix in CHECKERS:
            yield path


def check_files(paths: Iterable[Path]) -> list[str]:
    """Return one line per finding: file:line, the problem, the sentence."""
    return [
        f"{path}:{finding.line}: {finding.problem}: {finding.text}"
        for path in find_files(paths)
        for finding in CHECKERS[path.suffix](path)
    ]


if __name__ == "__main__":
    print("\n".join(check_files(Path(argument) for argument in sys.argv[1:])))
