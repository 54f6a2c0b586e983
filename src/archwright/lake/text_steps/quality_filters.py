"""The step that drops documents of low quality by published rules.

Sources: Gopher (Rae and others 2021, arXiv 2112.11446, appendix A.1.1, table A1), C4 (Raffel and others 2020, arXiv
1910.10683, section 2.2), FineWeb (Penedo and others 2024, arXiv 2406.17557, section 3.6). Words are separated by white
space, so the rules do not fit languages without it.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import msgspec

from archwright.lake.lazy_modules import np, pa, pc
from archwright.lake.steps.step import Rows, Step, StepContext, StepSources
from archwright.lake.steps.text_columns import find_text_column

TERMINAL_PUNCTUATION = (".", "!", "?", '"', "'", "”", "’", "…", "。", "！", "？")
BULLETS = ("•", "‣", "▪", "●", "○", "◦", "-", "*", "–")
ELLIPSES = ("...", "…")
MULTIPLIER = 0x9E3779B97F4A7C15  # odd, so that the words of an n-gram in another order have another hash
Rule = Literal["gopher", "gopher-repetition", "c4", "fineweb"]


def _option(name: str, default: Any) -> Any:
    return msgspec.field(name=name, default=default)


class FilterQuality(Step):
    """Drop documents that break one of the `rules`; the reason is the first limit that is broken.

    The defaults of the limits are the published ones. Ratios are 0 to 1. `top-n-grams` limits the characters of the
    most frequent 2-, 3- and 4-gram, `duplicate-n-grams` those of repeated 5- to 10-grams. C4's rules for lines decide
    which lines have its sentences; the text stays as it is.
    """

    column: str = ""
    rules: tuple[Rule, ...] = ("gopher", "gopher-repetition", "fineweb")
    # gopher
    minimum_words: int = _option("minimum-words", 50)
    maximum_words: int = _option("maximum-words", 100_000)
    minimum_word_length: float = _option("minimum-word-length", 3)
    maximum_word_length: float = _option("maximum-word-length", 10)
    symbols_per_word: float = _option("symbols-per-word", 0.1)
    bullet_lines: float = _option("bullet-lines", 0.9)
    ellipsis_lines: float = _option("ellipsis-lines", 0.3)
    words_with_letters: float = _option("words-with-letters", 0.8)
    stop_words: tuple[str, ...] = _option("stop-words", ("the", "be", "to", "of", "and", "that", "have", "with"))
    minimum_stop_words: int = _option("minimum-stop-words", 2)
    # gopher-repetition
    duplicate_lines: float = _option("duplicate-lines", 0.3)
    duplicate_paragraphs: float = _option("duplicate-paragraphs", 0.3)
    duplicate_line_characters: float = _option("duplicate-line-characters", 0.2)
    duplicate_paragraph_characters: float = _option("duplicate-paragraph-characters", 0.2)
    top_n_grams: tuple[float, float, float] = _option("top-n-grams", (0.2, 0.18, 0.16))
    duplicate_n_grams: tuple[float, ...] = _option("duplicate-n-grams", (0.15, 0.14, 0.13, 0.12, 0.11, 0.1))
    # c4
    minimum_sentences: int = _option("minimum-sentences", 5)
    minimum_words_per_line: int = _option("minimum-words-per-line", 3)
    # fineweb
    lines_with_punctuation: float = _option("lines-with-punctuation", 0.12)
    repeated_line_characters: float = _option("repeated-line-characters", 0.1)
    short_lines: float = _option("short-lines", 0.67)
    short_line_characters: int = _option("short-line-characters", 30)

    def output_columns(self, columns: dict[str, str]) -> dict[str, str]:
        find_text_column(columns, self.column)
        return columns

    def prepare(self, sources: StepSources) -> "QualityWorker":
        return QualityWorker(self, find_text_column(sources.columns, self.column))


class QualityWorker(NamedTuple):
    options: FilterQuality
    column: str

    def process_rows(self, rows: Rows, context: StepContext) -> Rows:
        for batch in rows:
            reasons = [self._find_reason(text or "") for text in batch.column(self.column).to_pylist()]
            dropped = pa.array([reason is not None for reason in reasons])
            if any(reasons):
                context.drop_rows(batch.filter(dropped), [reason for reason in reasons if reason])
            yield batch.filter(pc.invert(dropped))

    def _find_reason(self, text: str) -> str | None:
        document = ParsedText.parse(text)
        return next((why for rule in self.options.rules for why in CHECKS[rule](document, self.options)), None)


class ParsedText(NamedTuple):
    """A text, its words, and its lines that are not blank, without white space at their ends."""

    text: str
    words: list[str]
    lines: list[str]

    @classmethod
    def parse(cls, text: str) -> "ParsedText":
        return cls(text, text.split(), [line for line in map(str.strip, text.split("\n")) if line])

    def share_of_lines(self, test: Callable[[str], bool]) -> float:
        return sum(map(test, self.lines)) / max(1, len(self.lines))


def _check_gopher(document: ParsedText, options: FilterQuality) -> Iterator[str]:
    words, count = document.words, len(document.words)
    if count < options.minimum_words:
        yield f"fewer than {options.minimum_words} words"
    if count > options.maximum_words:
        yield f"more than {options.maximum_words} words"
    mean = len("".join(words)) / max(1, count)
    if not options.minimum_word_length <= mean <= options.maximum_word_length:
        yield f"mean word length outside {options.minimum_word_length:g} to {options.maximum_word_length:g}"
    for name, signs in (("hash signs", ("#",)), ("ellipses", ELLIPSES)):
        if sum(document.text.count(sign) for sign in signs) > options.symbols_per_word * count:
            yield f"more than {options.symbols_per_word:g} {name} per word"
    if document.share_of_lines(lambda line: line.startswith(BULLETS)) > options.bullet_lines:
        yield f"more than {options.bullet_lines:.0%} of lines start with a bullet"
    if document.share_of_lines(lambda line: line.endswith(ELLIPSES)) > options.ellipsis_lines:
        yield f"more than {options.ellipsis_lines:.0%} of lines end with an ellipsis"
    different = set(words)
    without = {word for word in different if not word.isalpha() and not any(map(str.isalpha, word))}
    if sum(map(without.__contains__, words)) > (1 - options.words_with_letters) * count:
        yield f"fewer than {options.words_with_letters:.0%} of words contain a letter"
    if len(set(map(str.lower, different)).intersection(options.stop_words)) < options.minimum_stop_words:
        yield f"fewer than {options.minimum_stop_words} stop words"


def _check_repetition(document: ParsedText, options: FilterQuality) -> Iterator[str]:
    paragraphs = [part.strip() for part in document.text.split("\n\n") if part.strip()]
    for name, parts, most, most_characters in (
        ("paragraphs", paragraphs, options.duplicate_paragraphs, options.duplicate_paragraph_characters),
        ("lines", document.lines, options.duplicate_lines, options.duplicate_line_characters),
    ):
        repeated, characters = _count_repeated(parts)
        if repeated > most * len(parts):
            yield f"more than {most:.0%} of {name} are repeated"
        if characters > most_characters * len(document.text):
            yield f"more than {most_characters:.0%} of characters are in repeated {name}"
    yield from _check_n_grams(document, options)


def _count_repeated(parts: list[str]) -> tuple[int, int]:
    """Number of the parts that repeat an earlier part, and their characters."""
    again = [(number - 1, part) for part, number in Counter(parts).items() if number > 1]
    return sum(number for number, _ in again), sum(number * len(part) for number, part in again)


def _check_n_grams(document: ParsedText, options: FilterQuality) -> Iterator[str]:
    hashes = np.fromiter(map(hash, document.words), np.int64, len(document.words)).view(np.uint64)
    lengths = np.fromiter(map(len, document.words), np.int64, len(document.words))
    ends = np.concatenate([[0], np.cumsum(lengths)])
    total, gram = max(1, len(document.text)), hashes
    sort, flatnonzero, concatenate = np.sort, np.flatnonzero, np.concatenate  # each look-up in a lazy module costs
    for size in range(2, 5 + len(options.duplicate_n_grams)):
        if len(document.words) < size:
            return
        gram = gram[:-1] * MULTIPLIER + hashes[size - 1 :]
        ordered = sort(gram)
        edges = flatnonzero(concatenate([[True], ordered[1:] != ordered[:-1], [True]]))
        runs = edges[1:] - edges[:-1]
        if len(runs) == len(gram):
            return  # then no longer n-gram is repeated
        longest = (ends[size:] - ends[:-size]).max() + size - 1
        if size < 5:
            most = options.top_n_grams[size - 2]
            if runs.max() * longest > most * total and _count_top_characters(gram, ends, size) > most * total:
                yield f"more than {most:.0%} of characters are in the most frequent {size}-gram"
        else:
            most, least = options.duplicate_n_grams[size - 5], min(options.duplicate_n_grams) * total
            repeated = (len(gram) - len(runs)) * longest > least and _count_repeated_characters(gram, ends, size)
            if repeated > most * total:
                yield f"more than {most:.0%} of characters are in repeated {size}-grams"
            if repeated <= least:
                return  # repeated longer n-grams cover no more


def _count_top_characters(gram: Any, ends: Any, size: int) -> int:
    """Characters of the most frequent n-gram, blanks included; of several, those of the longest."""
    _, first, count = np.unique(gram, return_index=True, return_counts=True)
    top = first[count == count.max()]
    return int(count.max() * ((ends[top + size] - ends[top]).max() + size - 1))


def _count_repeated_characters(gram: Any, ends: Any, size: int) -> int:
    """Characters of the words in n-grams that repeat an earlier one, each word counted once."""
    _, first, number = np.unique(gram, return_index=True, return_inverse=True)
    starts = np.flatnonzero(first[number] != np.arange(len(gram)))
    covered = np.zeros(len(ends), np.int64)
    np.add.at(covered, starts, 1)
    np.add.at(covered, starts + size, -1)
    return int(np.diff(ends)[np.cumsum(covered[:-1]) > 0].sum())


def _check_c4(document: ParsedText, options: FilterQuality) -> Iterator[str]:
    text = document.text.lower()
    for word in ("lorem ipsum", "{"):
        if word in text:
            yield f"contains {word!r}"
    lines = [line for line in document.lines if line.endswith(TERMINAL_PUNCTUATION) and not line.endswith(ELLIPSES)]
    lines = [line for line in lines if "javascript" not in line.lower()]
    lines = [line for line in lines if len(line.split()) >= options.minimum_words_per_line]
    sentences = sum(max(1, sum(word.endswith((".", "!", "?", "。")) for word in line.split())) for line in lines)
    if sentences < options.minimum_sentences:
        yield f"fewer than {options.minimum_sentences} sentences in lines that end like a sentence"


def _check_fineweb(document: ParsedText, options: FilterQuality) -> Iterator[str]:
    if not document.lines:
        yield "no text"
    if document.share_of_lines(lambda line: line.endswith(TERMINAL_PUNCTUATION)) <= options.lines_with_punctuation:
        yield f"at most {options.lines_with_punctuation:.0%} of lines end with punctuation"
    characters = sum(map(len, document.lines))
    if _count_repeated(document.lines)[1] > options.repeated_line_characters * characters:
        yield f"more than {options.repeated_line_characters:.0%} of characters are in repeated lines"
    if document.share_of_lines(lambda line: len(line) <= options.short_line_characters) >= options.short_lines:
        yield f"{options.short_lines:.0%} of lines or more have at most {options.short_line_characters} characters"


CHECKS: dict[Rule, Callable[[ParsedText, FilterQuality], Iterator[str]]] = {
    "gopher": _check_gopher,
    "gopher-repetition": _check_repetition,
    "c4": _check_c4,
    "fineweb": _check_fineweb,
}
