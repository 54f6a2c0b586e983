from __future__ import annotations

from pathlib import Path

import pytest

from archwright.errors import TrainError
from archwright.training.training_spec import Columns, ImageSpec, TrainSpec, read_spec

from ..tools.checks import refuses

TEXT = "name: assistant\ntask: text-lora\ndataset: qa\nbase: some-model\n"
IMAGE = "name: digits\ntask: image-classifier\ndataset: digits\n"


def refused(folder: Path, text: str) -> TrainError:
    path = folder / "spec.yaml"
    path.write_text(text)
    with pytest.raises(TrainError) as caught:
        read_spec(path)
    return caught.value


def test_a_short_spec_has_the_defaults_of_the_demo(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(TEXT)
    assert read_spec(path) == TrainSpec(name="assistant", task="text-lora", dataset="qa", base="some-model")
    assert (read_spec(path).steps, read_spec(path).tokens_per_step, read_spec(path).learning_rate) == (40, 512, None)


def test_every_field_is_read(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(
        IMAGE + "steps: 3\nrows_per_step: 8\nlearning_rate: 0.01\nseed: 7\nworkers: 2\nthreads: 1\n"
        "checkpoint_every_steps: 1\nheld_out: 0\ncolumns: {label: kind, features: [a, b]}\n"
        "image: {height: 1, width: 2, channels: 1, scale: 255}\n"
    )
    assert read_spec(path) == TrainSpec(
        name="digits",
        task="image-classifier",
        dataset="digits",
        steps=3,
        rows_per_step=8,
        learning_rate=0.01,
        seed=7,
        workers=2,
        threads=1,
        checkpoint_every_steps=1,
        held_out=0.0,
        columns=Columns(label="kind", features=("a", "b")),
        image=ImageSpec(height=1, width=2, scale=255.0),
    )


WRONG_NUMBERS = {
    **{"steps": "0 -4 1e9 ten", "tokens_per_step": "1000000 8", "learning_rate": "0 -0.1 .nan .inf 5"},
    **{"rank": "0 100000", "held_out": "1 -0.1", "seed": "-1"},
    **dict.fromkeys(("rows_per_step", "alpha", "workers", "threads", "checkpoint_every_steps"), "0"),
}


@pytest.mark.parametrize(
    ("line", "field"),
    [
        *((f"{field}: {value}", field) for field, values in WRONG_NUMBERS.items() for value in values.split()),
        ("columns: {prompt: ''}", "columns.prompt"),
        ("image: {height: 0, width: 8}", "image.height"),
    ],
)
def test_numbers_that_make_no_sense_are_refused_with_their_line(tmp_path: Path, line: str, field: str) -> None:
    error = refused(tmp_path, TEXT + line + "\n")
    assert (error.code, error.where.line, error.where.field) == ("AW-TRN-01", 5, field)
    assert error.hint


def test_what_is_unknown_or_missing_says_what_there_is(tmp_path: Path) -> None:
    error = refused(tmp_path, TEXT + "learnin_rate: 0.1\n")
    assert error.nearest[0] == "learning_rate" and "learning_rate" in error.hint
    assert refused(tmp_path, TEXT + "columns: {promt: q}\n").nearest[0] == "prompt"
    assert "tabular-classifier" in refused(tmp_path, TEXT.replace("text-lora", "regression")).hint
    assert "dataset" in refused(tmp_path, "name: a\ntask: text-lora\n").message


@pytest.mark.parametrize("name", ["Assistant", "-a", "a b", "../a", "", "a" * 64])
def test_a_name_that_is_no_name_is_refused(tmp_path: Path, name: str) -> None:
    error = refused(tmp_path, TEXT.replace("name: assistant", f"name: '{name}'"))
    assert (error.code, error.where.field) == ("AW-TRN-01", "name")


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("name: a\ntask: text-lora\ndataset: d\n", "base"),
        (IMAGE + "base: b\nimage: {height: 8, width: 8}\n", "base"),
        (IMAGE, "image"),
        (TEXT + "image: {height: 8, width: 8}\n", "image"),
    ],
)
def test_fields_that_do_not_go_together_are_refused(tmp_path: Path, text: str, field: str) -> None:
    error = refused(tmp_path, text)
    assert (error.code, error.where.field) == ("AW-TRN-02", field)


@pytest.mark.parametrize("file", ["model.pt", "pytorch_model.BIN", "a/b.pkl", "x.ckpt", "y.joblib"])
def test_a_pickle_as_base_is_refused_with_the_way_out(tmp_path: Path, file: str) -> None:
    error = refused(tmp_path, TEXT.replace("some-model", file))
    assert (error.code, error.where.field) == ("AW-TRN-03", "base")
    assert "safetensors" in error.hint
    assert "weights_only=True" in error.hint


def test_a_spec_that_is_not_there(tmp_path: Path) -> None:
    with refuses("AW-USE-01"):
        read_spec(tmp_path / "nowhere.yaml")
