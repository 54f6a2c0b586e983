"""Expectations block a version, stay with the data set, and name places but no values."""

from __future__ import annotations

import random
from datetime import date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from archwright.contract.lineage import Expectation, ExpectationResult
from archwright.errors import DataError
from archwright.lake.governance import expectations

from ..temporary_lake import Lake, code

ROWS = [
    {"id": "a", "age": 31, "mail": "ann@example.org", "seen": "2026-01-01T00:00:00", "class": "x"},
    {"id": "b", "age": 62, "mail": None, "seen": "2026-01-02T00:00:00", "class": "y"},
    {"id": "c", "age": 7, "mail": "bob@example.org", "seen": "2026-01-03T00:00:00", "class": "x"},
    {"id": "d", "age": 40, "mail": "cyd@example.org", "seen": "2026-01-02T00:00:00", "class": "x"},
]
JAN_4 = 1767484800.0


def write_times(lake: Lake) -> None:
    times = [datetime.fromisoformat(str(row["seen"])) for row in ROWS]
    table = pa.table({"at": pa.array(times, pa.timestamp("s")), "day": [date(2026, 1, 1)] * len(ROWS), "age": [0] * 4})
    pq.write_table(table, lake.source / "b.parquet")


def expect(lake: Lake, *rules: str) -> tuple[Expectation, ...]:
    path = lake.root / "expect.yaml"
    path.write_text("expectations:\n" + "".join(f"  - {rule}\n" for rule in rules), encoding="utf-8")
    return expectations.read_expectations(path)


def refusal(lake: Lake, *rules: str) -> str:
    with pytest.raises(DataError) as caught:
        lake.ingest(expectations=expect(lake, *rules))
    assert code(caught.value) == "AW-DATA-51"
    return caught.value.message


@pytest.fixture
def rows(lake: Lake) -> Lake:
    lake.at = JAN_4
    lake.put_rows("a.jsonl", ROWS)
    return lake


@pytest.mark.parametrize(
    ("good", "bad", "places"),
    [
        ("{column: age, kind: integer}", "{column: age, kind: text}", "measured integer"),
        ("{column: age, min: 7}", "{column: age, min: 32}", "2 rows fail, such as a.jsonl:1, a.jsonl:3"),
        (
            "{column: age, max: 62.0}",
            "{column: age, max: 30.5}",
            "3 rows fail, such as a.jsonl:1, a.jsonl:2, a.jsonl:4",
        ),
        ("{column: seen, min: '2026-01-01'}", "{column: seen, min: '2026-01-02'}", "1 row fails, such as a.jsonl:1"),
        ("{column: mail, not-null: 0.75}", "{column: mail, not-null: 0.8}", "1 row fails, such as a.jsonl:2"),
        ("{column: class, values: [x, y]}", "{column: class, values: [x]}", "1 row fails, such as a.jsonl:2"),
        ("{column: age, values: [31, 62, 7, 40]}", "{column: age, values: [31, 62, 7]}", "such as a.jsonl:4"),
        ("{column: mail, pattern: '[a-z]+@example.org'}", "{column: mail, pattern: 'ann'}", "3 rows fail, such as"),
        ("{column: id, unique: true}", "{column: class, unique: true}", "2 rows fail, such as a.jsonl:4"),
        ("{columns: [class, seen], unique: true}", "{columns: [class, class], unique: true}", "2 rows fail"),
        ("{column: class, unique: false, kind: text}", "{column: gone, not-null: 0}", "there is no column gone"),
        ("{column: at, max-age-days: 1}", "{column: at, max-age-days: 0.9}", "measured 1"),
        ("{column: seen, max-age-days: 1}", "{column: seen, max-age-days: 0.5}", "measured 1"),
        ("{column: at, min: '2026-01-01'}", "{column: at, max: '2026-01-02T12:00:00'}", "such as b.parquet:3"),
        ("{column: day, max-age-days: 3}", "{column: day, max-age-days: 2.9}", "measured 3"),
        ("{min-rows: 4, max-rows: 4}", "{min-rows: 5}", "measured 4"),
        ("{max-age-days: 36500}", "{max-age-days: -36500}", "max-age-days -36500, measured"),
    ],
)
def test_a_failed_expectation_blocks_the_version(rows: Lake, good: str, bad: str, places: str) -> None:
    if "at," in bad or "day," in bad:
        write_times(rows)
    message = refusal(rows, good, bad)
    assert "of " in message and places in message, message
    assert "example" not in message.replace("example.org'", "") or "pattern" in bad
    assert rows.data_files() == set()
    assert not (rows.home.lake / "quarantine" / "docs" / "v1.jsonl").exists()
    made = rows.ingest(expectations=expect(rows, good)).version
    assert made.id == "docs@v1"
    assert [type(one) for one in made.expectations] == [ExpectationResult] * len(made.expectations)
    assert made.expectations


def test_all_failures_are_listed_at_once(rows: Lake) -> None:
    message = refusal(rows, "{column: age, min: 10}", "{column: id, unique: true}", "{min-rows: 9}")
    assert message.splitlines() == [
        "2 of 3 expectations failed, so docs@v1 was not created:",
        "  age: min 10, 1 row fails, such as a.jsonl:3",
        "  the data set: min-rows 9, measured 4",
    ]


def test_later_versions_are_checked_too_with_all_their_rows(rows: Lake) -> None:
    rows.ingest(expectations=expect(rows, "{column: id, unique: true}", "{column: age, max: 99}"))
    rows.put_rows("b.jsonl", [{"id": "b", "age": 1}])
    with pytest.raises(DataError) as caught:
        rows.ingest()
    assert "id: unique True, 1 row fails, such as b.jsonl:1" in caught.value.message
    rows.put_rows("b.jsonl", [{"id": "e", "age": 1}])
    second = rows.ingest().version
    assert [(one.check, one.columns, one.measured) for one in second.expectations] == [
        ("unique", ("id",), 0),
        ("max", ("age",), 1.0),
    ]
    third = rows.ingest(expectations=()).version
    assert (third.id, third.expectations) == ("docs@v3", ())


def test_new_expectations_for_unchanged_files_make_a_version(rows: Lake) -> None:
    assert rows.ingest().version.id == "docs@v1"
    assert "1 of 1" in refusal(rows, "{min-rows: 5}")
    checked = rows.ingest(expectations=expect(rows, "{min-rows: 4}"))
    assert (checked.version.id, checked.new) == ("docs@v2", True)
    assert not rows.ingest(expectations=expect(rows, "{min-rows: 4}")).new


def test_a_recipe_has_expectations(rows: Lake) -> None:
    rows.ingest()
    step = "[{drop-short: {characters: 1, columns: [class]}}]\nexpectations: [{column: age, max: %d}]"
    with pytest.raises(DataError) as caught:
        rows.refine(step % 50)
    assert "docs-clean@v1 was not created" in caught.value.message
    made = rows.refine(step % 99).version
    assert [one.check for one in made.expectations] == ["max"]
    assert not rows.refine(step % 99).new
    assert rows.refine(step % 98).version.id == "docs-clean@v2"


def test_a_null_fails_only_the_check_for_nulls(lake: Lake) -> None:
    pq.write_table(pa.table({"n": [1.0, None, 2.0], "m": [None, 1, None]}), lake.source / "a.parquet")
    assert "1 row fails, such as a.parquet:2" in refusal(lake, "{column: n, not-null: 1}")
    rules = ("{column: m, unique: true}", "{column: m, max: 1}", "{column: n, min: 1}", "{column: m, values: [1]}")
    assert len(lake.ingest(expectations=expect(lake, *rules)).version.expectations) == 4


@pytest.mark.parametrize(
    "rule",
    [
        "{column: age}",
        "{min: 3}",
        "{columns: [a, b], min: 3}",
        "{column: age, min-rows: 3}",
        "{column: age, kind: string}",
        "{column: age, not-null: 2}",
        "{column: age, maximum: 2}",
        "{column: age, pattern: x}",
        "{column: age, min: x}",
        "{column: class, pattern: '('}",
        "{column: class, max-age-days: 3}",
        "{column: age, values: [[1]]}",
    ],
)
def test_an_unusable_rule_is_refused(rows: Lake, rule: str) -> None:
    with pytest.raises(DataError) as caught:
        rows.ingest(expectations=expect(rows, rule))
    assert code(caught.value) == "AW-DATA-50"


def test_texts_with_a_zone_have_an_age(rows: Lake) -> None:
    rows.put_rows("a.jsonl", [{"seen": "2026-01-03T23:00:00+01:00"}, {"seen": "2026-01-01T00:00:00Z"}])
    made = rows.ingest(expectations=expect(rows, "{column: seen, max-age-days: 2}")).version
    assert made.expectations[0].measured == pytest.approx(2 / 24)


def numbers(seed: int, mean: float = 0.0, odd: float = 0.2, count: int = 1500) -> list[dict[str, object]]:
    draw = random.Random(seed)
    return [{"n": draw.gauss(mean, 1), "c": "odd" if draw.random() < odd else "even"} for _ in range(count)]


def test_a_shift_beyond_chance_is_found_and_chance_is_not(lake: Lake) -> None:
    rules = expect(lake, "{column: n, max-shift: 0}", "{column: c, max-shift: 0}")
    lake.put_rows("a.jsonl", numbers(0))
    assert [one.measured for one in lake.ingest(expectations=rules).version.expectations] == [0.0, 0.0]
    for seed in (1, 2):
        lake.put_rows("a.jsonl", numbers(seed))
        assert [one.measured for one in lake.ingest().version.expectations] == [0.0, 0.0]
    lake.put_rows("a.jsonl", numbers(9, mean=0.4))
    with pytest.raises(DataError, match="1 of 2 expectations failed"):
        lake.ingest()
    lake.put_rows("a.jsonl", numbers(9, odd=0.4))
    with pytest.raises(DataError, match=r"c: max-shift 0, measured 0\.1"):
        lake.ingest()
    tolerant = expect(lake, "{column: n, max-shift: 0.3}", "{column: c, max-shift: 0.3}")
    lake.put_rows("a.jsonl", numbers(9, mean=0.4, odd=0.4))
    assert all(0 < one.measured < 0.3 for one in lake.ingest(expectations=tolerant).version.expectations)  # type: ignore[operator]


def test_a_template_of_the_documents_is_read(tmp_path: Path) -> None:
    path = tmp_path / "expect.yaml"
    path.write_text("expectations: []\n", encoding="utf-8")
    assert expectations.read_expectations(path) == ()
