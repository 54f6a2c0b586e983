"""Predictions through the gateway: a real ONNX engine behind it, what it answers, refuses, records and measures."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from archwright.contract.evidence import Query
from archwright.contract.lineage import format_node
from archwright.contract.record import replace
from archwright.engines.engine_config import EngineConfig
from archwright.engines.onnx import BATCH_ITEMS
from archwright.engines.onnx_file import ModelSignature
from archwright.errors import EngineError
from archwright.home import Home
from archwright.monitor import lineage
from archwright.monitor.metrics.observations import evaluate_query
from archwright.serving.handlers import classification
from archwright.serving.http.errors import ApiError
from archwright.serving.requests.model_resolution import ModelDirectory

from ...engines.onnx_models import model, put
from ..conftest import Platform, endpoint, free_port, null_engine, running, table

if TYPE_CHECKING:
    from ..conftest import Entry

pytestmark = pytest.mark.enable_socket
PATH = "/v1/predict/sorter"
MANY = ModelSignature(labels=tuple(f"class-{number}" for number in range(40)), shape=(3,))


def _spec(name: str, socket: str) -> Entry:
    given: dict[str, Any] = {"model": name, "workload": name, "pool": f"{name}-pool", "addresses": (f"unix:{socket}",)}
    given |= {"version": f"{name}@v1", "kind": "predict", "context_tokens": 1, "default_max_tokens": 1, "slots": 2}
    return endpoint(**given)


def _engine(home: Home, socket: str, made: Any) -> EngineConfig:
    digest = put(home, made.SerializeToString())
    config = replace(null_engine(socket, slots=2), engine="onnx", alias=socket, model_sha256=digest)
    return replace(config, context_tokens=1, default_max_tokens=1)


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A text endpoint m, the classifiers sorter and many, and two whose engine is none: odd and gone."""
    specs = [_spec(name, socket) for name, socket in (("sorter",) * 2, ("many",) * 2, ("odd", "null"), ("gone",) * 2)]
    config = table(endpoint(), *specs, port=free_port())
    home = Home(tmp_path_factory.mktemp("predict"))
    engines = _engine(home, "sorter", model()), _engine(home, "many", model(MANY, outputs=40))
    with running(home, config, null_engine(), *engines, ready=False) as made:
        yield made


def _ask(platform: Platform, body: Any, path: str = PATH) -> Any:
    return platform.ask("POST", path, body)


def test_each_item_gets_its_likeliest_class_and_all_probabilities(platform: Platform) -> None:
    reply = _ask(platform, {"inputs": [[1, 0, 0], {"a": -1, "b": 0, "c": None}]})
    assert reply.status == 200 and reply.headers["content-type"] == "application/json"
    assert reply.headers["x-archwright-model"] == "sorter@v1"
    assert [one.version for one in platform.served(reply.headers["x-request-id"])] == ["sorter@v1"]
    assert [event.effect for event in platform.audited(reply.headers["x-request-id"])] == ["allow"]
    assert reply.json == {
        "object": "prediction",
        "model": "sorter@v1",
        "endpoint": "sorter",
        "predictions": [
            {"label": "high", "probability": 0.880797, "probabilities": {"low": 0.119203, "high": 0.880797}},
            {"label": "low", "probability": 0.880797, "probabilities": {"low": 0.880797, "high": 0.119203}},
        ],
    }


def test_predictions_of_a_classifier_are_recorded(platform: Platform) -> None:
    """The queries of a plan's latency and availability, answered from the ring and by the scraped series."""
    began = time.time()
    for _ in range(20):
        assert _ask(platform, {"inputs": [[1, 0, 0]]}).status == 200
    labels = {"workload": "sorter"}
    latency = Query(metric="latency_s", labels=labels, statistic="p95", window_s=3600.0)
    share = Query(metric="requests", labels=labels, statistic="share", window_s=3600.0)
    platform.until(lambda: (s := evaluate_query(platform.store, latency, time.time())) is not None and s.samples >= 20)
    seen = evaluate_query(platform.store, latency, time.time())
    assert seen is not None
    assert seen.unit == "s" and 0 < seen.value <= time.time() - began
    answered = evaluate_query(platform.store, share, time.time(), home=platform.home)
    assert answered is not None and (answered.value, answered.unit) == (1.0, "share")
    assert any(
        name.startswith("archwright_request_seconds_count") and 'workload="sorter"' in name and count >= 20
        for name, count in platform.metrics().items()
    )


def test_a_large_reply_is_as_whole_as_a_small_one(platform: Platform) -> None:
    assert BATCH_ITEMS * len(MANY.labels) > classification.INLINE_PROBABILITIES
    reply = _ask(platform, {"inputs": [[0.1 * (i % 7), 0, 0] for i in range(BATCH_ITEMS)]}, "/v1/predict/many")
    assert reply.status == 200 and len(reply.json["predictions"]) == BATCH_ITEMS
    assert all(set(found["probabilities"]) == set(MANY.labels) for found in reply.json["predictions"])


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "'inputs' is required"),
        ({"inputs": None}, "'inputs' is required"),
        ({"input": [[1, 2, 3]]}, "unknown field 'input'; did you mean 'inputs'?"),
        ({"inputs": [[1, 2, 3]], "model": "m"}, "unknown field 'model'"),
        ({"inputs": []}, "of length"),
        ({"inputs": [[1, 2, 3]] * (BATCH_ITEMS + 1)}, "of length"),
        ({"inputs": "x"}, "'inputs': expected"),
        ({"inputs": [1]}, "'inputs[0]': expected"),
        ({"inputs": [[1, 2, True]]}, "'inputs[0][2]': expected"),
        ({"inputs": [{"a": "x"}]}, "'inputs[0]': expected"),
        ({"inputs": [[1, 2, 3], [1, 2]]}, "inputs[1] must be a list of 3, not a list of 2"),
        ({"inputs": [[1, None, 3]]}, "inputs[0][b] is missing"),
        ({"inputs": [[1, 1e39, 3]]}, "inputs[0][1] must be a number of 32 bits"),
        ({"inputs": [{"a": 1, "b": 2, "x": 3}]}, "unknown feature 'x'"),
        (b'{"inputs": [[NaN, 1, 2]]}', "not valid JSON"),
        (b"[", "not valid JSON"),
        (b"[]", "must be a JSON object"),
    ],
)
def test_what_does_not_fit_is_reported_to_the_item(platform: Platform, body: Any, said: str) -> None:
    reply = _ask(platform, body)
    assert reply.status == 400 and reply.error["type"] == "invalid_request_error"
    assert said in reply.error["message"], reply.error
    assert "x-archwright-model" not in reply.headers


@pytest.mark.parametrize(
    ("name", "said"),
    [("nobody", "does not exist"), ("m", "Send the request to /v1/chat"), ("sorter/x", "does not exist")],
)
def test_a_name_that_is_no_classifier_is_404(platform: Platform, name: str, said: str) -> None:
    reply = _ask(platform, {"inputs": [[1, 2, 3]]}, f"/v1/predict/{name}")
    assert (reply.status, reply.error["code"]) == (404, "model_not_found") and said in reply.error["message"]


def test_a_classifier_is_no_text_model(platform: Platform) -> None:
    reply = platform.chat(model="sorter")
    assert (reply.status, reply.error["code"]) == (404, "model_not_found")
    assert "sorter" not in {found["id"] for found in platform.get("/v1/models").json["data"]}


def test_an_engine_that_fails_or_is_none_is_not_the_clients_fault(platform: Platform) -> None:
    rows = (("sorter", [3e38, 3e38, 0], 502), ("odd", [1, 2, 3], 502), ("gone", [1, 2, 3], 503))
    for name, item, status in rows:
        reply = _ask(platform, {"inputs": [item]}, f"/v1/predict/{name}")
        code = {502: "engine_failed", 503: "engine_unavailable"}[status]
        assert (reply.status, reply.error["code"]) == (status, code), name
        assert lineage.read_parents(platform.store, format_node("answer", reply.headers["x-request-id"])) == []


def test_it_is_measured_like_any_request(platform: Platform) -> None:
    def count() -> float:
        labels = 'model="many",pool="many-pool",workload="many"'
        return platform.metrics().get(f"archwright_request_seconds_count{{{labels}}}", 0.0)

    before = [platform.requests(status, "many") for status in ("ok", "refused")]
    seconds = count()
    _ask(platform, {"inputs": [[1, 2, 3]]}, "/v1/predict/many")
    _ask(platform, {"inputs": [[1, 2]]}, "/v1/predict/many")
    platform.until(lambda: platform.requests("refused", "many") == before[1] + 1)
    assert platform.requests("ok", "many") == before[0] + 1
    assert count() == seconds + 1


def test_the_directory_decides_before_the_body_is_looked_at() -> None:
    entries = (endpoint(), _spec("sorter", "s"))
    directory = ModelDirectory([entry.pool for entry in entries], [entry.spec for entry in entries])
    with pytest.raises(ApiError) as refused:
        classification.parse_classification_request(b"{", directory, "nobody")
    assert refused.value.status == 404
    found = classification.parse_classification_request(b'{"inputs": [[1], [[2]]]}', directory, "sorter")
    assert found.endpoint.pool == "sorter-pool" and found.inputs == [[1.0], [[2]]]


@pytest.mark.parametrize(
    "reply",
    [
        {},
        {"labels": ["a", "b"], "probabilities": [[0.5, 0.5]]},
        {"labels": ["a", "b"], "probabilities": [[0.5, 0.5], [1.0]]},
        {"labels": ["a", "b"], "probabilities": [[0.5, 0.5], ["x", 0.5]]},
    ],
)
def test_an_engine_that_answers_with_something_else_is_found_out(reply: dict[str, Any]) -> None:
    with pytest.raises(EngineError) as refused:
        classification._check_reply(reply, 2)
    assert refused.value.code == "AW-ENG-03"
