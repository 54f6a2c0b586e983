"""Problems of a needs file; only the first problem in file order becomes an error.

A hostile file can have thousands of problems, so spellings are suggested (`suggest`) for the
reported problem only.
"""

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Mapping
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


def nearest_spellings(word: str, known_words: Collection[str]) -> tuple[str, ...]:
    """Return up to three known spellings close to `word`.

    Case, spaces, dashes and underscores make no difference.
    """
    spelling_by_folded: dict[str, str] = {}
    for spelling in sorted(known_words):
        spelling_by_folded.setdefault(_fold_spelling(spelling), spelling)
    folded_word = _fold_spelling(word[:80])
    close = difflib.get_close_matches(folded_word, list(spelling_by_folded), n=3, cutoff=0.6)
    return tuple(spelling_by_folded[folded] for folded in close)


def _fold_spelling(text: str) -> str:
    return re.sub(r"[\s_.-]+", "", text).casefold()


def last_field_name(path: str) -> str:
    """Return the field's own name: the last part of its path without indices."""
    without_index = re.sub(r"(\[\d+\])+$", "", path)
    return without_index.rpartition(".")[2] or "the file"


def to_error(problem: NeedsProblem, tree: NeedsTree) -> NeedsError:
    hint = problem.hint
    nearest: tuple[str, ...] = ()
    if problem.suggest is not None:
        nearest = problem.suggest()
    if nearest:
        choices = " or ".join(map(quote_value, nearest))
        hint = f"did you mean {choices}? {hint}".rstrip()

    line = _find_nearest(problem.path, tree.lines)
    where = ErrorLocation(tree.file, line, problem.path or None)
    return NeedsError(problem.code, problem.message, where=where, hint=hint, nearest=nearest)


def _find_nearest(path: str, values: Mapping[str, int]) -> int | None:
    """Return the value of a path, else of the nearest container around it that has a value."""
    for enclosing_path in enclosing_paths(path):
        if enclosing_path in values:
            return values[enclosing_path]
    return None


def raise_first(problems: Iterable[NeedsProblem], tree: NeedsTree) -> None:
    """Raise the problem that comes first in the file; return if there is none."""
    order = {path: index for index, path in enumerate(tree.lines)}

    def position(problem: NeedsProblem) -> int:
        if problem.missing:
            parent_path = problem.path.rpartition(".")[0]
            return tree.ends.get(parent_path, len(order))
        return _find_nearest(problem.path, order) or 0

    first = min(problems, key=position, default=None)
    if first is not None:
        raise to_error(first, tree)
