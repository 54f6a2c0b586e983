"""Each published rule drops what it describes, and only that; the reason names the limit."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archwright.errors import DataError
from archwright.lake.text_steps.quality_filters import CHECKS, FilterQuality, ParsedText

from ..steps.step_runner import run_step

WORDS = [f"{first}{second}" for first in "abcdefghij" for second in ("ever", "owing", "ider", "est", "anther")]


def prose(count: int, seed: int = 1) -> str:
    """Lines of ten different words."""
    chosen = random.Random(seed)
    lines = (" ".join(["the", "and", *chosen.sample(WORDS, 8)]) + "." for _ in range(count // 10))
    return "\n".join(lines)


def reason_of(text: str | None, **options: Any) -> str | None:
    dropped = run_step(FilterQuality(**options), text=[text, GOOD]).dropped
    return next((reason for row, reason in dropped if row == 0), None)


GOOD = prose(200, 7)


@pytest.mark.parametrize(
    ("rule", "text", "reason"),
    [
        ("gopher", "The end of it.", "fewer than 50 words"),
        ("gopher", "it is " * 60, "mean word length outside 3 to 10"),
        ("gopher", prose(100) + " #tag" * 30, "more than 0.1 hash signs per word"),
        ("gopher", prose(100) + " so..." * 15, "more than 0.1 ellipses per word"),
        ("gopher", prose(100).replace("\n", "\n- ", 5), None),
        ("gopher", "* " + prose(200).replace("\n", "\n* "), "more than 90% of lines start with a bullet"),
        ("gopher", prose(200).replace(".\n", "…\n", 7), "more than 30% of lines end with an ellipsis"),
        ("gopher", prose(100) + " 12345" * 30, "fewer than 80% of words contain a letter"),
        ("gopher", prose(100).replace("and ", "x ").replace("the ", "y "), "fewer than 2 stop words"),
        ("gopher-repetition", "\n\n".join(["same here"] * 4 + [prose(90)]), "more than 30% of paragraphs are repeated"),
        ("gopher-repetition", prose(20) + "\nagain." * 3, "more than 30% of lines are repeated"),
        (
            "gopher-repetition",
            "\n".join([prose(60), *["x" * 60] * 3]),
            "more than 20% of characters are in repeated lines",
        ),
        (
            "gopher-repetition",
            prose(50) + " wonderful thing" * 8,
            "more than 20% of characters are in the most frequent 2-gram",
        ),
        ("gopher-repetition", prose(100) + "\n" + prose(60), "more than 30% of lines are repeated"),
        ("gopher-repetition", prose(100).replace("\n", " ") * 2, "more than 15% of characters are in repeated 5-grams"),
        ("c4", GOOD + "\nLorem ipsum dolor.", "contains 'lorem ipsum'"),
        ("c4", GOOD + "\nif (x) { y(); }", "contains '{'"),
        (
            "c4",
            "\n".join(["Enable javascript to see this."] * 9),
            "fewer than 5 sentences in lines that end like a sentence",
        ),
        (
            "c4",
            "\n".join(["Home", "About us", "Two words."] * 9),
            "fewer than 5 sentences in lines that end like a sentence",
        ),
        (
            "fineweb",
            "\n".join(["a menu item that is longer than thirty characters"] * 9),
            "at most 12% of lines end with punctuation",
        ),
        (
            "fineweb",
            GOOD + "\nThe same line once more stands here." * 9,
            "more than 10% of characters are in repeated lines",
        ),
        (
            "fineweb",
            GOOD + "".join(f"\nItem {place}." for place in range(60)),
            "67% of lines or more have at most 30 characters",
        ),
        ("fineweb", None, "no text"),
    ],
)
def test_a_rule_drops_what_it_describes(rule: str, text: str | None, reason: str | None) -> None:
    assert reason_of(text, rules=(rule,)) == reason
    others = tuple(other for other in CHECKS if other != rule)
    assert reason_of(GOOD, rules=(rule, *others)) is None


def test_a_limit_is_an_option() -> None:
    assert reason_of("The end of those things.", rules=("gopher",), minimum_words=5, minimum_stop_words=1) is None
    assert reason_of(prose(100), rules=("gopher",), stop_words=("der", "und")) == "fewer than 2 stop words"
    assert reason_of(prose(100), rules=("gopher",), maximum_words=99) == "more than 99 words"


def test_the_default_rules_keep_prose_and_count_reasons() -> None:
    run = run_step(FilterQuality(column="b"), a=["x"] * 3, b=[GOOD, "short", GOOD])
    assert run["source_row"] == [0, 2]
    assert run.dropped == [(1, "fewer than 50 words")]
    with pytest.raises(DataError) as caught:
        run_step(FilterQuality(column="n"), n=[1], text=["x"])
    assert caught.value.code == "AW-DATA-22"


def repeated_share(words: list[str], size: int) -> float:
    """The definition, in plain Python: characters of words in n-grams that an earlier one equals."""
    seen: set[tuple[str, ...]] = set()
    covered: set[int] = set()
    for start in range(len(words) - size + 1):
        gram = tuple(words[start : start + size])
        if gram in seen:
            covered.update(range(start, start + size))
        seen.add(gram)
    return sum(len(words[place]) for place in covered) / max(1, len(" ".join(words)))


def top_share(words: list[str], size: int) -> float:
    grams = [" ".join(words[start : start + size]) for start in range(len(words) - size + 1)]
    most = max(map(grams.count, grams), default=0)
    longest = max((len(gram) for gram in grams if grams.count(gram) == most > 1), default=0)
    return most * longest / len(" ".join(words))


@settings(max_examples=50)
@given(st.lists(st.sampled_from(["a", "bb", "ccc", "dddd", "a1", "e2e2e2"]), min_size=1, max_size=60))
def test_n_grams_are_those_of_the_definition(words: list[str]) -> None:
    for size in range(2, 11):
        share = (top_share if size < 5 else repeated_share)(words, size)
        for limit, broken in ((max(0, share - 1e-9), share > 0), (share + 1e-9, False)):
            tops = (limit if size == 2 else 9.0, limit if size == 3 else 9.0, limit if size == 4 else 9.0)
            repeats = tuple(limit if size == other else 9.0 for other in range(5, 11))
            options = FilterQuality(top_n_grams=tops, duplicate_n_grams=repeats)
            found = list(CHECKS["gopher-repetition"](ParsedText.parse(" ".join(words)), options))
            assert bool(found) == broken, (size, share)


@pytest.mark.parametrize("unit", ["a", "a ", "\n", "a\n", ". ", "# ", "{", "\u0301", "a\n\n"])
def test_hostile_texts_take_no_longer_than_their_length(unit: str) -> None:
    assert reason_of(unit * (200_000 // len(unit)), rules=tuple(CHECKS)) is not None
