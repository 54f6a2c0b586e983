"""Classifiers as a service: an ONNX file through onnxruntime, on the same kind of socket as every other engine.

POST /v1/predict {"inputs": [[...], ...]} -> {"labels": [...], "probabilities": [[...], ...]}: `labels` are the classes
in the order of the probabilities. An item is its numbers in order, nested as its shape is, or an object by feature
names. null is a missing value, allowed only where the model was trained with missing values. Design: an item that does
not fit is refused with its number, never filled in.
"""

from __future__ import annotations

import asyncio
import difflib
import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import chain
from typing import Any, TypeAlias

import msgspec

from archwright.contract.record import Record
from archwright.engines.engine_config import EngineConfig, adapter_settings
from archwright.engines.engine_server import (
    EngineReply,
    Routes,
    ServerRequest,
    SlotCounter,
    make_json_reply,
    serve_until,
)
from archwright.engines.null_replies import invalid_request_error
from archwright.engines.onnx_file import ModelSignature, OnnxFile, read_onnx
from archwright.engines.unix_socket import claim_socket
from archwright.errors import EngineError, ErrorLocation, MissingError, missing_extra
from archwright.home import Home
from archwright.journal import Journal

Item: TypeAlias = list[float | list[Any] | None] | dict[str, float | None]
Numbers: TypeAlias = list[float | None]
# Errors only: the engine's warnings are about how the file was written.
LOG_SEVERITY = 3
RUNTIME_ERRORS = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented", "RuntimeException")
FLOAT32_MAX = 3.4028235e38
BATCH_ITEMS = 1024


class OnnxSettings(Record):
    """`threads` work on one request; `batch_items` is the most a request may hold."""

    threads: int = 1
    batch_items: int = BATCH_ITEMS

    def __post_init__(self) -> None:
        if self.threads < 1 or self.batch_items < 1:
            raise ValueError("threads and batch_items must be at least 1")


class InferenceInput(msgspec.Struct, forbid_unknown_fields=True):
    inputs: list[Item]


def serve(
    config: EngineConfig,
    home: Home,
    journal: Journal,
    wait: Callable[[], Awaitable[object]] = lambda: asyncio.Event().wait(),
) -> None:
    """Serve on the home's socket until killed; returns only if `wait` does.

    Raises MissingError AW-GET-01 (no onnxruntime) and AW-GET-02 (no file), EngineError AW-ENG-06, -10, -11, and
    AW-ENG-12 where the engine does not take the model."""
    settings = adapter_settings(config, OnnxSettings)
    file = find_model(config, home)
    classifier = Classifier(file, settings.threads)
    engine = OnnxEngine(config, classifier, settings)
    serve_until(wait, engine.routes(), claim_socket(home, config.socket), journal, config.alias)


def find_model(config: EngineConfig, home: Home) -> OnnxFile:
    if config.model_sha256 is None:
        hint = "run `archwright up` again: it writes the configuration anew"
        where = ErrorLocation(field="model_sha256")
        raise EngineError("AW-ENG-06", "the engine onnx needs a model file", where=where, hint=hint)
    path = home.model(config.model_sha256, "onnx")
    if not path.is_file():
        hint = "train it again, or take the file from a backup of the home"
        message = f"the file of model {config.alias} is not here"
        raise MissingError("AW-GET-02", message, where=ErrorLocation(str(path)), hint=hint)
    return read_onnx(path, config.model_sha256)


class Classifier:
    """A model in onnxruntime; `probabilities` may be asked from several threads at once."""

    def __init__(self, file: OnnxFile, threads: int = 1) -> None:
        self.notes = file.notes
        self._may_miss = [name in file.notes.missing for name in file.notes.features] or [False] * file.notes.size
        try:
            import numpy  # noqa: PLC0415  the heavy extra of this adapter
            import onnxruntime  # noqa: PLC0415
        except ModuleNotFoundError as error:
            raise missing_extra("predict", str(error.name), "serving a classifier") from error
        self._numpy = numpy
        # They have no common base.
        raised = onnxruntime.capi.onnxruntime_pybind11_state
        self._failures = (*(getattr(raised, name) for name in RUNTIME_ERRORS), ValueError)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = LOG_SEVERITY
        try:
            self._session = onnxruntime.InferenceSession(file.data, options, providers=["CPUExecutionProvider"])
            (given,), (answered,) = self._session.get_inputs(), self._session.get_outputs()
            self._input, self._output = given.name, answered.name
            self._check_output_shape()
        except self._failures as error:
            hint = "train it again with this version; its export gate tries the file before it is promoted"
            message = f"onnxruntime does not take the model: {_format_error(error)}"
            raise EngineError("AW-ENG-12", message, hint=hint) from error

    def predict_probabilities(self, rows: Any) -> Any:
        """Class probabilities per row of `rows` (float32). Raises EngineError AW-ENG-13 when the model gives none."""
        try:
            (found,) = self._session.run([self._output], {self._input: rows})
        except self._failures as error:
            raise EngineError("AW-ENG-13", f"the model failed on an input: {_format_error(error)}") from error
        if not self._numpy.isfinite(found).all():
            raise EngineError("AW-ENG-13", "the model answered with numbers that are not finite")
        return found

    def _check_output_shape(self) -> None:
        """A model that cannot answer is found at its start, not by the first caller."""
        for items in (1, 2):
            rows = self._numpy.zeros((items, self.notes.size), self._numpy.float32)
            (found,) = self._session.run([self._output], {self._input: rows})
            wanted = (items, len(self.notes.labels))
            if found.shape != wanted:
                raise ValueError(f"it answers {items} items with the shape {found.shape}, not {wanted}")

    def build_rows(self, items: list[Item]) -> Any:
        """The items as the model's input. Raises Refusal 400, naming the item."""
        order = {name: index for index, name in enumerate(self.notes.features)}
        numbers = [_flatten_item(item, f"inputs[{index}]", self.notes, order) for index, item in enumerate(items)]
        rows = self._numpy.array(numbers, self._numpy.float32)
        wrong = self._numpy.isnan(rows) & ~self._numpy.array(self._may_miss)
        if wrong.any():
            item, feature = (int(index) for index in self._numpy.argwhere(wrong)[0])
            name = self.notes.features[feature] if self.notes.features else feature
            reason = "is missing, and the model was trained on rows that all have it"
            raise invalid_request_error(f"inputs[{item}][{name}] {reason}")
        return rows


class OnnxEngine:
    """`config.slots` requests at once, the others wait in the order they came."""

    def __init__(self, config: EngineConfig, classifier: Classifier, settings: OnnxSettings) -> None:
        self._config = config
        self._classifier = classifier
        self._settings = settings
        self._slots = SlotCounter("onnx", config.slots, ("predictions_total", "prediction_seconds_total"), "g")

    def routes(self) -> Routes:
        return self._slots.build_routes({("POST", "/v1/predict"): self._predict})

    async def _predict(self, request: ServerRequest) -> EngineReply:
        items = parse_inputs(request.body, self._settings.batch_items)
        async with self._slots.hold_slot():
            # Not on the event loop: a batch takes a while, and the health page must answer meanwhile.
            found, took_s = await asyncio.to_thread(self._predict_items, items)
        self._slots.counts["prediction_seconds_total"] += took_s
        self._slots.counts["predictions_total"] += len(items)
        return make_json_reply({"labels": self._classifier.notes.labels, "probabilities": found})

    def _predict_items(self, items: list[Item]) -> tuple[list[list[float]], float]:
        rows = self._classifier.build_rows(items)
        began = time.perf_counter()
        found = self._classifier.predict_probabilities(rows).tolist()
        return found, time.perf_counter() - began


def parse_inputs(data: bytes, batch_items: int) -> list[Item]:
    """The items of a request's body. Raises Refusal 400."""
    try:
        items = msgspec.json.decode(data, type=InferenceInput).inputs
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `$.")
        raise invalid_request_error(f"{place.rstrip('`') or 'the body'}: {message}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid_request_error(f"the body is not JSON: {error}") from error
    if not 0 < len(items) <= batch_items:
        raise invalid_request_error(f"inputs must be a list of 1 to {batch_items} items, not of {len(items)}")
    return items


def _flatten_item(item: Item, place: str, notes: ModelSignature, order: dict[str, int]) -> Numbers:
    if isinstance(item, dict):
        return _flatten_named(item, place, notes, order)
    if notes.shape != (notes.size,) and item and isinstance(item[0], list):
        return _flatten_values(item, place, notes.shape)
    return _flatten_values(item, place, (notes.size,))


def _flatten_named(item: dict[str, float | None], place: str, notes: ModelSignature, order: dict[str, int]) -> Numbers:
    if not order:
        raise invalid_request_error(f"{place}: this model's inputs have no names: send {notes.size} numbers in order")
    if unknown := next((name for name in item if name not in order), None):
        near = difflib.get_close_matches(unknown, notes.features, 1)
        question = f"; did you mean {near[0]!r}?" if near else ""
        raise invalid_request_error(f"{place}: unknown feature {unknown[:80]!r}{question}")
    if absent := next((name for name in order if name not in item), None):
        raise invalid_request_error(f"{place}: the feature {absent!r} is not there (a missing value is null)")
    return _flatten_values([item[name] for name in notes.features], place, (notes.size,), notes.features)


def _flatten_values(values: Any, place: str, shape: tuple[int, ...], names: Sequence[object] = ()) -> Numbers:
    """The numbers of nested lists, last dimension fastest; every list must have its dimension's length."""
    if type(values) is not list or len(values) != shape[0]:
        found = f"a list of {len(values)}" if type(values) is list else "no list"
        raise invalid_request_error(f"{place} must be a list of {shape[0]}, not {found}")
    if len(shape) > 1:
        inner = (_flatten_values(value, f"{place}[{index}]", shape[1:]) for index, value in enumerate(values))
        return [*chain.from_iterable(inner)]
    for index, value in enumerate(values):
        if value is not None and (type(value) not in (float, int) or abs(value) > FLOAT32_MAX):
            raise invalid_request_error(f"{place}[{names[index] if names else index}] must be a number of 32 bits")
    return values


def _format_error(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
