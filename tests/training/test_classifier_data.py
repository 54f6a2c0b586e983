from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from archwright.contract.record import replace
from archwright.training import classifier_data
from archwright.training.training_spec import TrainSpec

from ..tools.checks import refuses
from .classifier_rows import CANCER, data_of

SPEC: TrainSpec = replace(CANCER, columns=replace(CANCER.columns, label="label"))


def _data(values: Any, **columns: Any) -> Any:
    column = values if isinstance(values, pa.Array) else pa.array(values)
    return data_of({**columns, "label": column}, replace(SPEC, held_out=0.0))


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([10, 2, 2, -1], ("-1", "2", "10")),
        (["b", "a", "10", "9"], ("10", "9", "a", "b")),
        ([True, False, True], ("false", "true")),
        ([1.0, 0.0, 0.5], ("0", "0.5", "1")),
    ],
)
def test_labels_are_sorted_as_what_they_are(values: list[Any], labels: tuple[str, ...]) -> None:
    data = _data(values)
    assert classifier_data.collect_labels(data, SPEC) == labels
    truth = classifier_data.encode_labels(data.train, data, SPEC, labels)
    texts = data.train.table.column("label").to_pylist()
    assert [labels.index(classifier_data._format_label(value, data, "label")) for value in texts] == truth.tolist()
    # A class that no row was trained on is unknown.
    known = classifier_data.encode_labels(data.train, data, SPEC, labels[1:]).tolist()
    assert known == [place - 1 if place else classifier_data.UNKNOWN_LABEL for place in truth.tolist()]


@pytest.mark.parametrize(
    ("values", "code", "said"),
    [
        ([5, 5, 5], "AW-TRN-40", "1 different values"),
        (list(range(1001)), "AW-TRN-40", "1,001 different values"),
        (["a", ""], "AW-TRN-41", "an empty text"),
        ([0.5, float("nan")], "AW-TRN-41", "'nan'"),
        ([datetime.date(2026, 1, 1), datetime.date(2026, 1, 2)], "AW-TRN-41", "2026-01-01"),
    ],
)
def test_what_is_no_label_is_refused(values: list[Any], code: str, said: str) -> None:
    with refuses(code, said):
        classifier_data.collect_labels(_data(values), SPEC)


def test_columns_become_floats_of_32_bits() -> None:
    data = _data([0, 1, 0], a=[1, None, 3], b=[True, False, True], c=[0.1, 0.2, 1e20])
    found = classifier_data.build_feature_matrix(data.train, ["c", "a", "b"], data)
    assert found.dtype == np.float32 and found.shape == (3, 3)
    assert np.isnan(found[:, 1]).sum() == 1 and set(found[:, 2]) == {0.0, 1.0}
    assert sorted(found[:, 0]) == pytest.approx([0.1, 0.2, 1e20])


@pytest.mark.parametrize(
    ("column", "code", "said"),
    [
        (["x", "y", "z"], "AW-TRN-42", "contains string, not numbers"),
        ([0.0, float("inf"), 1.0], "AW-TRN-43", "is infinite"),
        ([0.0, -1e39, 1.0], "AW-TRN-43", "is infinite or exceeds"),
    ],
)
def test_what_is_no_number_is_refused(column: list[Any], code: str, said: str) -> None:
    data = _data([0, 1, 0], a=column)
    with refuses(code, said) as refused:
        classifier_data.build_feature_matrix(data.train, ["a"], data)
    if code == "AW-TRN-43":
        assert refused.value.where.field == "t.csv, row 2"


def test_a_digest_is_of_names_shapes_and_values() -> None:
    given = {"a": np.zeros((2, 3), np.float32), "b": np.ones(2, np.float32)}
    digest = classifier_data.weights_sha256(given)
    assert digest == classifier_data.weights_sha256(dict(reversed(given.items())))
    others = ({"a": given["a"]}, {**given, "a": given["a"].reshape(3, 2)}, {**given, "b": np.zeros(2, np.float32)})
    assert digest not in {classifier_data.weights_sha256(other) for other in others}
