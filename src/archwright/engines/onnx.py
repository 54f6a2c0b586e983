"""The engine of classifiers: serves an ONNX file with onnxruntime on a Unix socket.

POST /v1/predict {"inputs": [[...], ...]} -> {"labels": [...], "probabilities": [[...], ...]}: `labels` are the classes
in the order of the probabilities. An item is a list of its numbers, flat or nested like its shape, or an object with
feature names. null is a missing value, allowed only if the feature was missing in training.
Design: an invalid item is refused with its index and never completed.
"""

import asyncio
import difflib
import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import chain
from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta

from archwright.contract.record import Record
from archwright.engines.engine_config import EngineConfig, adapter_settings, require_digest, require_file
from archwright.engines.engine_server import (
    EngineReply,
    Routes,
    ServerRequest,
    SlotCounter,
    make_json_reply,
    parse_body,
    serve_until,
)
from archwright.engines.null_replies import invalid_request_error
from archwright.engines.onnx_file import ModelSignature, OnnxFile, read_onnx
from archwright.engines.onnx_session import OnnxSession
from archwright.home import Home
from archwright.journal import Journal

Item: TypeAlias = list[float | list[Any] | None] | dict[str, float | None]
Numbers: TypeAlias = list[float | None]
FLOAT32_MAX = 3.4028235e38
BATCH_ITEMS = 1024


class OnnxSettings(Record):
    """`threads` is per request; `batch_items` is the limit of items per request."""

    threads: Annotated[int, Meta(ge=1)] = 1
    batch_items: Annotated[int, Meta(ge=1)] = BATCH_ITEMS


class InferenceInput(msgspec.Struct, forbid_unknown_fields=True):
    inputs: list[Item]


def serve(
    config: EngineConfig,
    home: Home,
    journal: Journal,
    wait: Callable[[], Awaitable[object]] = lambda: asyncio.Event().wait(),
) -> None:
    """Serve on the home's socket until SIGTERM; returns only if `wait` does.

    Raises MissingError AW-GET-01 (no onnxruntime) and AW-GET-02 (no file), EngineError AW-ENG-06, -10, -11, and
    AW-ENG-12 (onnxruntime refuses the model).
    """
    settings = adapter_settings(config, OnnxSettings)
    digest = require_digest(config)
    path = require_file(home.model(digest, "onnx"), f"model {config.alias}")
    engine = OnnxEngine(config, Classifier(read_onnx(path, digest), settings.threads), settings)
    serve_until(wait, engine.routes(), home.engine_socket(config.socket), journal, config.alias)


class Classifier:
    """A model in onnxruntime; `predict_probabilities` may be called from several threads at once."""

    def __init__(self, file: OnnxFile, threads: int = 1) -> None:
        self.notes = file.notes
        self._may_miss = [name in file.notes.missing for name in file.notes.features] or [False] * file.notes.size
        self._session = OnnxSession(file.data, threads, "train the model again with this version of archwright")
        self._numpy = self._session.numpy
        with self._session.checking():
            (self._input,), ((self._output, _),) = self._session.inputs, self._session.outputs
            # A model with a wrong output is found here and not by the first caller.
            for items in (1, 2):
                rows = self._numpy.zeros((items, self.notes.size), self._numpy.float32)
                (found,) = self._session.run({self._input: rows}, [self._output])
                wanted = (items, len(self.notes.labels))
                if found.shape != wanted:
                    raise ValueError(f"its output for {items} items has the shape {found.shape}, not {wanted}")

    def predict_probabilities(self, rows: Any) -> Any:
        """Class probabilities per row of `rows` (float32). Raises EngineError AW-ENG-13 if the model fails."""
        (found,) = self._session.run({self._input: rows}, [self._output])
        return self._session.require_finite(found)

    def build_rows(self, items: list[Item]) -> Any:
        """The items as the model's input. Raises ErrorReply 400 that names the invalid item."""
        order = {name: index for index, name in enumerate(self.notes.features)}
        numbers = [_flatten_item(item, f"inputs[{index}]", self.notes, order) for index, item in enumerate(items)]
        rows = self._numpy.array(numbers, self._numpy.float32)
        wrong = self._numpy.isnan(rows) & ~self._numpy.array(self._may_miss)
        if wrong.any():
            item, feature = (int(index) for index in self._numpy.argwhere(wrong)[0])
            name = self.notes.features[feature] if self.notes.features else feature
            reason = "is missing, but no training row lacked it"
            raise invalid_request_error(f"inputs[{item}][{name}] {reason}")
        return rows


class OnnxEngine:
    """Runs `config.slots` requests at once; the others wait in order of arrival."""

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
            # In a thread: a batch takes long, and the event loop must answer health checks meanwhile.
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
    """The items of a request's body. Raises ErrorReply 400."""
    items = parse_body(data, InferenceInput).inputs
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
        raise invalid_request_error(f"{place}: the inputs have no names: send a list of {notes.size} numbers")
    if unknown := next((name for name in item if name not in order), None):
        near = difflib.get_close_matches(unknown, notes.features, 1)
        question = f"; did you mean {near[0]!r}?" if near else ""
        raise invalid_request_error(f"{place}: unknown feature {unknown[:80]!r}{question}")
    if absent := next((name for name in order if name not in item), None):
        raise invalid_request_error(f"{place}: the feature {absent!r} is missing (send null for a missing value)")
    return _flatten_values([item[name] for name in notes.features], place, (notes.size,), notes.features)


def _flatten_values(values: Any, place: str, shape: tuple[int, ...], names: Sequence[object] = ()) -> Numbers:
    """The numbers of nested lists, last dimension fastest; each list must have its dimension's length."""
    if type(values) is not list or len(values) != shape[0]:
        found = f"a list of {len(values)}" if type(values) is list else "another type"
        raise invalid_request_error(f"{place} must be a list of {shape[0]}, not {found}")
    if len(shape) > 1:
        inner = (_flatten_values(value, f"{place}[{index}]", shape[1:]) for index, value in enumerate(values))
        return [*chain.from_iterable(inner)]
    for index, value in enumerate(values):
        if value is not None and (type(value) not in (float, int) or abs(value) > FLOAT32_MAX):
            raise invalid_request_error(f"{place}[{names[index] if names else index}] must be a number of 32 bits")
    return values
