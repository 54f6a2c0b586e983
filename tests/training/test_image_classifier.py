"""The image classifier on real digits: it learns, goes on exactly, and serves what it learned."""

from __future__ import annotations

import json
import threading
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from archwright.contract.record import replace
from archwright.engines.onnx import Classifier
from archwright.engines.onnx_file import read_onnx
from archwright.errors import TrainError
from archwright.training import image_classifier
from archwright.training.trainer import StepResult, TrainedArtefact
from archwright.training.training_spec import Columns, ImageSpec, TrainSpec

from ..tools.checks import WAIT_S, run_together
from .classifier_rows import DIGITS, Pair, accuracy, data_of, digits, setup_of, steps

LABELS = tuple("0123456789")


class Done(NamedTuple):
    folder: Path
    result: TrainedArtefact
    losses: list[float]


@pytest.fixture(scope="module")
def done(learning: None, tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("digits")
    trainer = image_classifier.make_trainer(setup_of(digits(), DIGITS, folder))
    assert trainer.budget() == DIGITS.rows_per_step and set(trainer.lengths()) == {1}
    losses = steps(trainer, 0, DIGITS.steps)
    return Done(folder, trainer.save(folder), losses)


def test_it_learns_digits_it_has_not_seen(done: Done) -> None:
    data = data_of(digits(), DIGITS)
    assert done.losses[0] == pytest.approx(np.log(10), abs=0.2) and done.losses[-1] < 0.3
    trained = image_classifier.load_trained(done.folder, data, DIGITS, LABELS)
    columns = image_classifier.select_pixel_columns(data, DIGITS)
    rows = image_classifier.build_pixel_matrix(data.held_out, columns, data, DIGITS)
    assert accuracy(trained.answers(rows), data, DIGITS, LABELS) > 0.93
    assert accuracy(trained.untrained(rows), data, DIGITS, LABELS) < 0.3


def test_what_is_served_is_what_was_trained_and_not_what_was_not(done: Done) -> None:
    assert done.result == TrainedArtefact(format="onnx", file="model.onnx", labels=LABELS, input_shape=(8, 8, 1))
    data = data_of(digits(), DIGITS)
    trained = image_classifier.load_trained(done.folder, data, DIGITS, LABELS)
    served = Classifier(read_onnx(done.folder / done.result.file))
    assert served.notes == trained.notes and served.notes.features[:2] == ("pixel_00", "pixel_01")
    rows = image_classifier.build_pixel_matrix(data.held_out, list(served.notes.features), data, DIGITS)
    answers = served.predict_probabilities(rows)
    assert len(rows) > 200 and np.abs(answers.sum(axis=1) - 1).max() < 1e-5
    assert np.abs(answers - trained.answers(rows)).max() < 1e-5
    assert np.abs(answers - trained.untrained(rows)).max() > 0.5


@pytest.mark.model
def test_weights_without_the_optimisers_state_end_elsewhere(tmp_path: Path) -> None:
    whole, forgetful = (image_classifier.make_trainer(setup_of(digits(), DIGITS, tmp_path)) for _ in range(2))
    steps(whole, 0, 4)
    state = whole.state()
    assert set(json.loads(state["state.json"])) == {"adam"}
    forgetful.restore({**state, "state.json": b'{"adam": []}'})
    assert forgetful.weights_sha256() == whole.weights_sha256()
    steps(whole, 4, 8)
    steps(forgetful, 4, 8)
    assert forgetful.weights_sha256() != whole.weights_sha256()


def test_making_a_network_leaves_chance_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    image_classifier.make_trainer(setup_of(digits(), DIGITS, tmp_path))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.model
@pytest.mark.parametrize("shares", [(slice(0, None, 2), slice(1, None, 2)), (slice(0, 64), slice(64, 64))])
def test_two_workers_make_the_step_of_one(tmp_path: Path, shares: tuple[slice, slice]) -> None:
    alone = image_classifier.make_trainer(setup_of(digits(), DIGITS, tmp_path))
    meeting = threading.Barrier(2, timeout=WAIT_S)
    shared: dict[int, tuple[list[Any], float]] = {}
    group = [Pair(rank, meeting, shared) for rank in (0, 1)]
    pair = [image_classifier.make_trainer(setup_of(digits(), DIGITS, tmp_path, worker)) for worker in group]
    rows = list(range(64))
    found: dict[int, StepResult] = {}
    for _ in range(3):
        expected = alone.step(rows)
        run_together(
            [partial(lambda rank: found.update({rank: pair[rank].step(rows[shares[rank]])}), n) for n in (0, 1)]
        )
        assert found[0].loss == found[1].loss == pytest.approx(expected.loss, rel=1e-4)
        assert found[0].units + found[1].units == expected.units == 64
    assert pair[0].weights_sha256() == pair[1].weights_sha256()
    for name, tensor in alone._net.state_dict().items():
        assert torch.allclose(tensor, pair[0]._net.state_dict()[name], atol=1e-4), name


def _as_lists(nested: bool) -> dict[str, Any]:
    columns = digits()
    labels = columns.pop("label")
    pictures = np.stack(list(columns.values()), axis=1)
    shaped = pictures.reshape(-1, 8, 8) if nested else pictures
    return {"image": [json.dumps(one.tolist()) for one in shaped], "label": labels}


@pytest.mark.model
@pytest.mark.parametrize("nested", [False, True])
def test_a_column_of_lists_is_the_same_picture(tmp_path: Path, nested: bool) -> None:
    columns = image_classifier.make_trainer(setup_of(digits(), DIGITS, tmp_path))
    lists = image_classifier.make_trainer(setup_of(_as_lists(nested), DIGITS, tmp_path))
    assert steps(columns, 0, 2) == steps(lists, 0, 2)
    assert lists.save(tmp_path).input_shape == (8, 8, 1)
    assert read_onnx(tmp_path / "model.onnx").notes.features == ()


@pytest.mark.model
@pytest.mark.parametrize("shape", [(1, 5, 1), (5, 1, 2), (3, 7, 3)])
def test_small_and_coloured_pictures_are_arranged_row_by_row(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    height, width, channels = shape
    given = ImageSpec(height=height, width=width, channels=channels, scale=2.0)
    size = height * width * channels
    pixels = np.random.default_rng(1).random((40, size)).astype(np.float32)
    columns = {f"p{place:03d}": pixels[:, place] for place in range(size)}
    spec = replace(DIGITS, image=given, columns=Columns(label="y"))
    trainer = image_classifier.make_trainer(setup_of({**columns, "y": (pixels[:, 0] > 0.5)}, spec, tmp_path))
    steps(trainer, 0, 3)
    trainer.save(tmp_path)
    pictures = torch.from_numpy(pixels / 2).reshape(40, height, width, channels).permute(0, 3, 1, 2)
    with torch.inference_mode():
        expected = torch.softmax(trainer._net.body(pictures), dim=1).numpy()
    served = Classifier(read_onnx(tmp_path / "model.onnx"))
    assert served.notes.labels == ("false", "true") and served.notes.shape == shape
    assert np.abs(served.predict_probabilities(pixels) - expected).max() < 1e-5
    nested = served.build_rows(pixels[:2].reshape(2, *shape).tolist())
    assert np.array_equal(nested, pixels[:2])


def _refused(columns: dict[str, Any], spec: TrainSpec, folder: Path) -> TrainError:
    with pytest.raises(TrainError) as refused:
        image_classifier.make_trainer(setup_of(columns, spec, folder))
    return refused.value


def test_pictures_that_cannot_be_are_refused(tmp_path: Path) -> None:
    wrong = _refused(digits(), replace(DIGITS, image=ImageSpec(height=8, width=9)), tmp_path)
    assert wrong.code == "AW-TRN-44" and "has 64 feature columns" in wrong.message and "72" in wrong.message
    large = _refused(digits(), replace(DIGITS, image=ImageSpec(height=4096, width=4096)), tmp_path)
    assert large.code == "AW-TRN-44" and "scale the pictures down" in large.hint
    assert _refused(digits(), replace(DIGITS, image=None), tmp_path).code == "AW-TRN-02"
    absent = digits() | {"pixel_09": [None, *([1] * 1796)]}
    spec = replace(DIGITS, held_out=0.0)
    missing = _refused(absent, spec, tmp_path)
    assert missing.code == "AW-TRN-43" and missing.message == "pixel 9 has no value"
    assert missing.where.field == "t.csv, row 1"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1, 2", "is not a list of numbers"),
        ('["a"]', "is not a list of numbers"),
        ("[[1, 2], [3]]", "is not a list of numbers"),
        ("[1, 2, 3]", "has the shape (3,)"),
        ("7", "has the shape ()"),
        (json.dumps([1e300] * 64), "exceeds a 32-bit float"),
        (None, "is not a list of numbers"),
        (json.dumps([None] * 64), "has no value"),
    ],
)
def test_lists_that_are_no_picture_are_refused_by_their_row(tmp_path: Path, text: str | None, said: str) -> None:
    columns = _as_lists(False)
    columns["image"][4] = text
    wrong = _refused(columns, replace(DIGITS, held_out=0.0), tmp_path)
    assert wrong.code == "AW-TRN-43" and said in wrong.message and wrong.where.field == "t.csv, row 5"
