"""Problems of a needs file; only the first problem in file order becomes an error.

A hostile file can have thousands of problems, so spellings are suggested (`suggest`) for the reported problem only.
"""

import difflib
import re
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

from archwright.errors import ErrorLocation, NeedsError
from archwright.specfile import enclosing_paths, quote_value


class NeedsCode:
    CANNOT_OPEN = "AW-NEEDS-01"
    TOO_LARGE = "AW-NEEDS-02"
    NOT_TEXT = "AW-NEEDS-03"
    NOT_YAML = "AW-NEEDS-04"
    REFUSED_YAML = "AW-NEEDS-05"
    DUPLICATE_KEY = "AW-NEEDS-06"
    EMPTY = "AW-NEEDS-07"
    UNKNOWN_FIELD = "AW-NEEDS-08"
    MISSING_FIELD = "AW-NEEDS-09"
    WRONG_TYPE = "AW-NEEDS-10"
    NOT_A_CHOICE = "AW-NEEDS-11"
    OUT_OF_RANGE = "AW-NEEDS-12"
    BAD_TEXT = "AW-NEEDS-13"
    NAMED_TWICE = "AW-NEEDS-14"
    DANGLING = "AW-NEEDS-15"
    UNKNOWN_FACT = "AW-NEEDS-16"
    WRONG_FOR_KIND = "AW-NEEDS-17"
    CONTRADICTION = "AW-NEEDS-18"
    MALFORMED = "AW-NEEDS-19"
    NO_TEMPLATE = "AW-NEEDS-20"


class NeedsTree(NamedTuple):
    """A parsed needs file: see `specfile.YamlTree`."""

    file: str
    value: object
    lines: dict[str, int]
    ends: dict[str, int]


class NeedsProblem(NamedTuple):
    code: str
    path: str
    message: str
    hint: str
    suggest: Callable[[], tuple[str, ...]] | None = None
    missing: bool = False


def nearest_spellings(word: str, known: Collection[str]) -> tuple[str, ...]:
    """Return up to three known spellings close to `word`, whatever case, spaces, dashes and underscores."""

    def fold(text: str) -> str:
        return re.sub(r"[\s_.-]+", "", text).casefold()

    folded: dict[str, str] = {}
    for name in sorted(known):
        folded.setdefault(fold(name), name)
    close = difflib.get_close_matches(fold(word[:80]), list(folded), n=3, cutoff=0.6)
    return tuple(folded[name] for name in close)


def last_field_name(path: str) -> str:
    """Return the field's own name: the last part of its path without indices."""
    return re.sub(r"(\[\d+\])+$", "", path).rpartition(".")[2] or "the file"


def to_error(problem: NeedsProblem, tree: NeedsTree) -> NeedsError:
    line = next((tree.lines[path] for path in enclosing_paths(problem.path) if path in tree.lines), None)
    found = problem.suggest() if problem.suggest else ()
    hint = problem.hint
    if found:
        hint = f"did you mean {' or '.join(quote_value(name) for name in found)}? {hint}".rstrip()
    where = ErrorLocation(tree.file, line, problem.path or None)
    return NeedsError(problem.code, problem.message, where=where, hint=hint, nearest=found)


def raise_first(problems: Iterable[NeedsProblem], tree: NeedsTree) -> None:
    """Raise the problem that comes first in the file; return if there is none."""
    order = {path: index for index, path in enumerate(tree.lines)}

    def position(problem: NeedsProblem) -> int:
        if problem.missing:
            parent = problem.path.rpartition(".")[0]
            return tree.ends.get(parent, len(order))
        return next((order[path] for path in enclosing_paths(problem.path) if path in order), 0)

    first = min(problems, key=position, default=None)
    if first is not None:
        raise to_error(first, tree)
