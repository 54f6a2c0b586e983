from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from archwright.engines import onnx_file
from archwright.engines.onnx_file import ModelSignature, read_onnx
from archwright.errors import EngineError

from .onnx_models import NAMED, PICTURE, model

WHOLE: bytes = model().SerializeToString()


def _refused(folder: Path, data: bytes, sha256: str | None = None) -> EngineError:
    path = folder / "m.onnx"
    path.write_bytes(data)
    with pytest.raises(EngineError) as refused:
        read_onnx(path, sha256)
    assert str(path) in str(refused.value.where) and refused.value.hint
    return refused.value


def test_a_whole_file_gives_its_notes_and_a_wrong_digest_is_reported(tmp_path: Path) -> None:
    refused = _refused(tmp_path, WHOLE, "0" * 64)
    assert refused.code == "AW-ENG-10" and "SHA-256" in refused.message
    assert read_onnx(tmp_path / "m.onnx") == (WHOLE, NAMED)
    assert NAMED.size == 3 and PICTURE.size == 4


def test_every_cut_is_refused(tmp_path: Path) -> None:
    """The notes come last, so a file that ends early lacks them or breaks off."""
    for size in range(0, len(WHOLE), 7):
        assert _refused(tmp_path, WHOLE[:size]).code == "AW-ENG-10"


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=200))
def test_any_bytes_are_refused_in_words(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    assert _refused(tmp_path_factory.getbasetemp(), data).code == "AW-ENG-10"


@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, len(WHOLE) - 1), byte=st.integers(0, 255))
def test_a_changed_byte_never_escapes(tmp_path_factory: pytest.TempPathFactory, at: int, byte: int) -> None:
    path = tmp_path_factory.getbasetemp() / "changed.onnx"
    path.write_bytes(WHOLE[:at] + bytes([byte]) + WHOLE[at + 1 :])
    try:
        read_onnx(path)
    except EngineError as error:
        assert error.code in ("AW-ENG-10", "AW-ENG-11")


def _external(tensor: Any) -> Any:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/hostname"
    return tensor


TENSOR = _external(helper.make_tensor("t", TensorProto.FLOAT, [1], [1.0]))
CONSTANT = helper.make_node("Constant", [], ["k"], value=TENSOR)
BRANCH = helper.make_graph([], "then", [], [helper.make_tensor_value_info("t", TensorProto.FLOAT, [1])], [TENSOR])
CONDITION = helper.make_node("If", ["zero"], ["k"], then_branch=BRANCH, else_branch=BRANCH)
FUNCTION = helper.make_function("ours", "f", [], ["k"], [CONSTANT], [helper.make_opsetid("", 17)])
SPARSE = helper.make_sparse_tensor(TENSOR, helper.make_tensor("i", TensorProto.INT64, [1], [0]), [3])


@pytest.mark.parametrize(
    "hide",
    [
        lambda made: _external(made.graph.initializer[0]),
        lambda made: made.graph.node.insert(0, CONSTANT),
        lambda made: made.graph.node.insert(0, CONDITION),
        lambda made: made.functions.append(FUNCTION),
        lambda made: made.graph.sparse_initializer.append(SPARSE),
    ],
)
def test_a_tensor_in_another_file_is_refused_wherever_it_hides(tmp_path: Path, hide: Callable[[Any], None]) -> None:
    made = model()
    hide(made)
    assert _refused(tmp_path, made.SerializeToString()).code == "AW-ENG-11"


def test_a_model_without_notes_or_with_wrong_ones_is_not_ours(tmp_path: Path) -> None:
    assert "no description" in _refused(tmp_path, model(None).SerializeToString()).message
    wrong = model(None)
    helper.set_model_props(wrong, {onnx_file.SIGNATURE_KEY: '{"labels": ["a"], "shape": [3]}'})
    assert "labels" in _refused(tmp_path, wrong.SerializeToString()).message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("shape", wrong) for wrong in ((), (0,), (1 << 11, 1 << 11))),
        *(("features", wrong) for wrong in (("a",), ("a", "a", "b"))),
        *(("labels", ("a", "a")), ("missing", ("z",))),
    ],
)
def test_notes_that_cannot_be_true_are_refused(field: str, value: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError):
        ModelSignature(**{"labels": ("a", "b"), "shape": (3,), field: value})


def test_a_file_of_too_many_parts_or_bytes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "FIELD_LIMIT", 20)
    assert "more than 20 parts" in _refused(tmp_path, WHOLE).message
    monkeypatch.setattr(onnx_file, "SIZE_LIMIT_BYTES", 100)
    assert "larger than 100 bytes" in _refused(tmp_path, WHOLE).message
