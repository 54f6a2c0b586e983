"""Rows out of a real lake."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from archwright import api
from archwright.contract.record import replace
from archwright.home import Home
from archwright.lake.tables import version_index
from archwright.store import Store
from archwright.training import training_data
from archwright.training.training_data import TrainingData
from archwright.training.training_spec import Columns, TrainSpec

from ..tools.checks import refuses

SPEC = TrainSpec(name="a", task="text-lora", dataset="answers", base="b", held_out=0.25)
TABLE = TrainSpec(name="a", task="tabular-classifier", dataset="answers", columns=Columns(label="label"))


def ingest(rows: list[dict[str, Any]], name: str = "answers") -> None:
    path = Path(f"{name}.jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    api.data.ingest(str(path), name=name)


def qa(count: int) -> list[dict[str, Any]]:
    return [{"prompt": f"what is {n}?", "completion": f"{n} it is"} for n in range(count)]


def load(home: Home, spec: TrainSpec = SPEC) -> TrainingData:
    with closing(Store(home.store_url)) as store:
        return training_data.load_version(home, version_index.find_version(store, spec.dataset), spec)


def test_rows_come_in_the_order_of_their_ids_and_each_on_one_side(home: Home) -> None:
    ingest(qa(80))
    found = load(home)
    for part in (found.train, found.held_out):
        assert part.ids == sorted(part.ids) == [found.hex() for found in part.table.column("record_id").to_pylist()]
    assert not set(found.train.ids) & set(found.held_out.ids)
    assert len(found.train.ids) + len(found.held_out.ids) == 80
    assert 8 <= len(found.held_out.ids) <= 32
    assert found.train.table.column_names == ["record_id", "prompt", "completion"]
    assert (found.version.id, found.left_out) == ("answers@v1", 0)


@pytest.mark.parametrize(
    ("rows", "new"), [(qa(80), ""), ([{"prompt": "new?", "completion": "yes"}, *qa(40), *qa(40)], "new?")]
)
def test_a_row_that_moves_or_occurs_twice_keeps_its_side(home: Home, rows: list[dict[str, Any]], new: str) -> None:
    ingest(qa(40))
    before = load(home)
    ingest(rows)
    after = load(home)
    assert after.version.id == "answers@v2"
    assert load(home, replace(SPEC, dataset="answers@v1")).train.ids == before.train.ids
    texts = [set(part.table.column("prompt").to_pylist()) for part in (*before[:2], *after[:2])]
    assert texts[0] <= texts[2] and texts[1] and texts[1] <= texts[3] and not texts[2] & texts[3]
    assert not new or texts[1] == texts[3] - {new}


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_the_share_held_out_is_about_what_was_asked_for(share: float) -> None:
    held = sum(training_data.is_held_out(f"{n:064x}", share) for n in range(4000))
    assert held == pytest.approx(4000 * share, abs=120)


def test_who_is_held_out_of_a_small_share_is_held_out_of_a_larger_one() -> None:
    names = [f"{n:064x}" for n in range(1000)]
    small, large = ({name for name in names if training_data.is_held_out(name, share)} for share in (0.1, 0.3))
    assert small < large


def test_rows_without_a_text_are_left_out_and_counted(home: Home) -> None:
    ingest([*qa(20), {"prompt": "unanswered?", "completion": None}])
    found = load(home, replace(SPEC, held_out=0.0))
    assert (len(found.train.ids), found.left_out, found.held_out.ids) == (20, 1, [])


FEATURE_X = Columns(label="prompt", features=("x",))


@pytest.mark.parametrize(
    ("rows", "spec", "code", "field", "nearest"),
    [
        (qa(3), replace(SPEC, columns=Columns(prompt="promt")), "AW-TRN-10", "columns: prompt", {"prompt"}),
        (qa(3), replace(TABLE, columns=FEATURE_X), "AW-TRN-10", "columns: features", set()),
        ([{"prompt": 1, "completion": "x"}], SPEC, "AW-TRN-11", "columns: prompt", set()),
        ([{"prompt": "one?", "completion": "1"}], replace(SPEC, held_out=0.9), "AW-TRN-12", None, set()),
        ([{"prompt": "", "completion": None}, {"completion": "x"}], SPEC, "AW-TRN-12", None, set()),
        (qa(3), replace(SPEC, dataset="answer"), "AW-DATA-10", "answer", {"answers"}),
        ([{"word": "x", "label": n % 3} for n in range(20)], TABLE, "AW-TRN-13", "columns: features", set()),
    ],
)
def test_what_cannot_be_trained_on_is_refused_and_names_what_there_is(
    home: Home, rows: list[dict[str, Any]], spec: TrainSpec, code: str, field: str | None, nearest: set[str]
) -> None:
    ingest(rows)
    with refuses(code, hint="choose one of: prompt, completion" if code == "AW-TRN-10" else "") as caught:
        training_data.feature_columns(load(home, spec).train.table, spec)
    assert caught.value.where.field == field and nearest <= set(caught.value.nearest)


def test_features_are_the_numeric_columns_but_the_label_and_ours(home: Home) -> None:
    ingest([{"a": n, "word": "x", "b": n / 2, "c": n % 2 == 0, "label": n % 3} for n in range(20)])
    found = load(home, TABLE)
    assert sorted(training_data.feature_columns(found.train.table, TABLE)) == ["a", "b", "c"]
    named = replace(TABLE, columns=Columns(label="label", features=("b", "a")))
    assert training_data.feature_columns(load(home, named).train.table, named) == ["b", "a"]
    assert load(home, named).train.table.column_names == ["record_id", "label", "b", "a"]


def test_columns_that_an_earlier_version_left_behind_are_no_features(home: Home) -> None:
    ingest([{"old": n, "label": n % 3} for n in range(20)])
    ingest([{"new": n, "label": n % 3} for n in range(20)])
    found = load(home, TABLE)
    assert "old" in found.train.table.column_names
    assert training_data.feature_columns(found.train.table, TABLE) == ["new"]
