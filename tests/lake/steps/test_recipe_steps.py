"""The steps by themselves, without any engine: functions of a batch that can be sent elsewhere."""

from __future__ import annotations

import pickle
from typing import Any

import pyarrow as pa
import pytest

from archwright.lake.steps import recipe_steps, row_status

TEXT = pa.large_string()


def batch(**columns: list[Any]) -> pa.RecordBatch:
    """Columns of text (integers for source_row) with unset marks."""
    rows = len(next(iter(columns.values())))
    kinds = {"source_row": pa.int64(), row_status.CHANGES: pa.large_list(TEXT)}
    unset: dict[str, list[Any]] = {name: [None] * rows for name in (*row_status.TEXT_COLUMNS, row_status.CHANGES)}
    named = {**columns, **{name: values for name, values in unset.items() if name not in columns}}
    arrays = [pa.array(values, kinds.get(name, TEXT)) for name, values in named.items()]
    return pa.RecordBatch.from_arrays(arrays, names=list(named))


def out(made: pa.RecordBatch) -> list[tuple[str | None, str | None]]:
    return list(zip(made[row_status.DROP_STEP].to_pylist(), made[row_status.DROP_REASON].to_pylist(), strict=True))


@pytest.mark.parametrize(
    "step",
    [
        recipe_steps.DropEmptyRows(("a",)),
        recipe_steps.DropShortRows(("a",), 5),
        recipe_steps.RedactPersonalData(("a",), ("email",)),
        recipe_steps.AddDuplicateKeys(("a",)),
        recipe_steps.FlagDuplicates("why"),
    ],
)
def test_steps_travel_to_other_machines(step: object) -> None:
    assert pickle.loads(pickle.dumps(step)) == step  # noqa: S301 - our own


def test_drop_empty_names_the_first_column_that_is() -> None:
    made = recipe_steps.DropEmptyRows(("a", "b"))(batch(a=["x", " \t", None, "x"], b=["y", None, "y", "\n"]))
    assert out(made) == [
        (None, None),
        ("drop-empty", "a is empty"),
        ("drop-empty", "a is empty"),
        ("drop-empty", "b is empty"),
    ]


def test_drop_short_counts_characters_of_all_columns() -> None:
    made = recipe_steps.DropShortRows(("a", "b"), 4)(batch(a=["ab", None, "ü"], b=["cd", None, "öä"]))
    reason = ("drop-short", "shorter than 4 characters")
    assert out(made) == [(None, None), reason, reason]


def test_redact_notes_every_change_adds_to_earlier_ones_and_leaves_a_batch_without_any_as_it_is() -> None:
    first = batch(a=["a@b.example", "x", None], b=["203.0.113.9", "c@d.example", "x"])
    made = recipe_steps.RedactPersonalData(("a", "b"), ("email", "ip"))(first)
    assert made["a"].to_pylist() == ["<EMAIL>", "x", None]
    assert made["b"].to_pylist() == ["<IP>", "<EMAIL>", "x"]
    assert made[row_status.CHANGES].to_pylist() == [["email", "ip"], ["email"], None]
    again = recipe_steps.RedactPersonalData(("a",), ("email",))(row_status.replace_columns(made, {"a": first["a"]}))
    assert again[row_status.CHANGES].to_pylist() == [["email", "ip", "email"], ["email"], None]
    none = batch(a=["a@b.example", "call 12 34", "version 1.2.3.4"])
    assert recipe_steps.RedactPersonalData(("a",), ("phone", "ip"))(none) is none


def placed(**columns: list[Any]) -> pa.RecordBatch:
    rows = len(next(iter(columns.values())))
    place: dict[str, list[Any]] = {
        "record_id": [f"{number:064d}" for number in range(rows)],
        "source_file": ["f"] * rows,
        "source_row": list(range(rows)),
    }
    return batch(**place, **columns)


def test_identify_tells_values_apart_that_look_alike() -> None:
    made = recipe_steps.AddDuplicateKeys(("a", "b"))(
        placed(a=["x", "xy", "x", None, "null"], b=["yz", "z", "yz", None, None])
    )
    keys = made[row_status.DUPLICATE_KEY].to_pylist()
    assert keys[0] == keys[2]
    assert len(set(keys)) == 4
    assert made[row_status.ROW_POSITION].to_pylist() == sorted(made[row_status.ROW_POSITION].to_pylist())
    # A row that is out is no twin.
    made = recipe_steps.AddDuplicateKeys(("a",))(placed(a=["x", "x"], **{row_status.DROP_STEP: ["drop-short", None]}))
    assert made[row_status.DUPLICATE_KEY].to_pylist()[0] is None


def test_twins_are_marked_with_the_record_that_is_kept() -> None:
    known = recipe_steps.AddDuplicateKeys(("a",))(placed(a=["x", "y", "x"]))
    places = known[row_status.ROW_POSITION].to_pylist()
    firsts = pa.array([places[0], None, places[0]], TEXT)
    arrays = [*known.columns, firsts]
    joined = pa.RecordBatch.from_arrays(arrays, names=[*known.schema.names, row_status.FIRST_POSITION])
    made = recipe_steps.FlagDuplicates("why")(joined)
    assert out(made) == [(None, None), (None, None), ("drop-duplicates", "why")]
    assert made[row_status.DUPLICATE_OF].to_pylist() == [None, None, f"{0:064d}"]
    assert not {row_status.DUPLICATE_KEY, row_status.ROW_POSITION, row_status.FIRST_POSITION} & set(made.schema.names)
