"""Names are found by a token classifier: here a small graph that labels by token. It says nothing about accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from archwright.errors import ArchwrightError, DataError
from archwright.lake.personal_data.name_model import NameModel
from archwright.lake.text_steps.redaction import NameOptions, Redact

from ...engines.text_folders import build_graph, write_folder
from ..steps.step_runner import run_step

WORDS = ("[UNK]", "Ana", "María", "Bo", "Li", "perhaps", "##ris")
# Logits per word for O, B-PER, I-PER; "Li" is less certain.
TABLE = np.array([[9, 0, 0], [0, 9, 0], [0, 0, 9], [0, 9, 0], [1, 1, 0], [2, 1, 0], [0, 0, 9]], np.float32)
LABELS = {"0": "O", "1": "B-PER", "2": "I-PER"}


def write_model(folder: Path, **more: Any) -> Path:
    folder.mkdir()
    nodes = [helper.make_node("Gather", ["w", "input_ids"], ["logits"])]
    graph = build_graph(nodes, output="logits", tensors=[numpy_helper.from_array(TABLE, "w")], kind=TensorProto.INT64)
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    tokenizer = {
        **{"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "BertPreTokenizer"}},
        "model": {
            **{"type": "WordPiece", "vocab": vocabulary, "unk_token": "[UNK]"},
            **{"continuing_subword_prefix": "##", "max_input_chars_per_word": 100},
        },
    }
    config = {"id2label": LABELS, "max_position_embeddings": 16, "model_type": "bert", **more}
    return write_folder(folder, **{"model.onnx": graph, "config.json": config, "tokenizer.json": tokenizer})


def names_in(model: Path, text: str, threshold: float = 0.8) -> list[str]:
    [found] = NameModel(model).find_names([text], threshold)
    return [text[span.start : span.end] for span in found]


def test_names_are_joined_by_their_labels(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m")
    assert names_in(model, "to Ana María, and Ana Bo (María)") == ["Ana María", "Ana", "Bo", "María"]
    assert names_in(model, "Boris met Li perhaps") == ["Boris"]
    assert names_in(model, "Boris met Li perhaps", 0.5) == ["Boris", "Li"]
    assert names_in(model, "") == []


def test_windows_overlap(tmp_path: Path) -> None:
    """A name is found wherever it stands in a text that is longer than the context of 16 tokens."""
    model = write_model(tmp_path / "m")
    for before in range(40):
        assert names_in(model, "x " * before + "Ana María" + " x" * 40) == ["Ana María"]


def test_names_are_redacted_beside_other_kinds(tmp_path: Path) -> None:
    step = Redact(names=NameOptions(model="m")).locate(write_model(tmp_path / "m").parent)
    texts = ["Ana María wrote to Ana@example.org", None, "nobody", "Bo"]
    run = run_step(step, tmp_path, a=texts)
    assert run["a"] == ["<NAME> wrote to <EMAIL>", None, "nobody", "<NAME>"]
    assert run.changes == {"name": 2, "email": 1}
    dropped = run_step(Redact(action="drop", names=step.names), tmp_path, a=texts).dropped
    assert dropped == [(0, "contains personal data: name"), (3, "contains personal data: name")]


def test_unsuitable_models_are_refused_before_rows_are_read(tmp_path: Path) -> None:
    step = Redact(names=NameOptions(model=str(write_model(tmp_path / "m", id2label={"0": "POSITIVE"}))))
    with pytest.raises(DataError, match="no label for people") as caught:
        run_step(step, tmp_path, a=["x"])
    assert caught.value.code == "AW-DATA-72"
    with pytest.raises(ArchwrightError) as missing:
        run_step(Redact(names=NameOptions(model="none")), tmp_path, a=["x"])
    assert missing.value.code == "AW-GET-02"
