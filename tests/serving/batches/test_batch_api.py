"""Files and batches by the official client, and what is refused."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import openai
import pytest
from tests.serving.batches.conftest import CHAT, Batches, write_lines
from tests.serving.official_clients import openai_client

from archwright.serving.batches.batch_api import get_content, prepare
from archwright.serving.batches.batch_store import BatchStore
from archwright.serving.handlers.request_handler import HandlerContext

if TYPE_CHECKING:
    from tests.serving.conftest import Platform

pytestmark = pytest.mark.enable_socket


@pytest.fixture
def batches(null: Platform) -> Iterator[Batches]:
    with openai_client(null) as made:
        yield Batches(made)


def test_a_batch_answers_every_line_once(batches: Batches, null: Platform) -> None:
    data = write_lines(20) + b"\n" + write_lines(1, max_tokens=-1).replace(b"c0", b"wrong")
    batch = batches.wait(batches.create(data).id)
    assert (batch.status, batch.errors, batch.metadata) == ("completed", None, {"team": "night"})
    assert batch.created_at <= batch.in_progress_at <= batch.finalizing_at <= batch.completed_at < batch.expires_at
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (21, 20, 1)
    output, errors = batches.read(batch.output_file_id), batches.read(batch.error_file_id)
    assert [line["custom_id"] for line in output] == [f"c{n}" for n in range(20)]
    assert {line["response"]["body"]["choices"][0]["message"]["content"] for line in output} == {"The null engine says"}
    (wrong,) = errors
    assert (wrong["custom_id"], wrong["response"]["status_code"], wrong["error"]) == ("wrong", 400, None)
    assert wrong["response"]["body"]["error"]["param"] == "max_tokens"
    (record,) = null.served(output[3]["response"]["request_id"])
    assert (record.status, record.output_tokens, record.tenant, record.pool) == ("ok", 4, "acme", "p")


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("/v1/embeddings", {"model": "e", "input": "text"}, "list"),
        ("/v1/responses", {"model": "m", "input": "hi"}, "response"),
        ("/v1/completions", {"model": "m", "prompt": "a"}, "text_completion"),
    ],
)
def test_other_endpoints(batches: Batches, null: Platform, path: str, body: dict[str, Any], kind: str) -> None:
    line = {"custom_id": "a", "method": "POST", "url": path, "body": body}
    batch = batches.wait(batches.create(json.dumps(line).encode(), path).id)
    (output,) = batches.read(batch.output_file_id)
    assert output["response"]["body"]["object"] == kind
    assert len(null.served(output["response"]["request_id"])) == 1


def test_a_client_that_leaves_while_its_file_is_read_holds_no_memory(null: Platform) -> None:
    """Bytes that a thread would hold after the end of the connection would be held for ever."""
    store, used = BatchStore(null.home, "acme"), list[Any]()
    name = store.add_file("a.jsonl", b"x" * 1_000).id
    hold = lambda *_: used.append(threading.current_thread())  # noqa: E731
    response: Any = SimpleNamespace(hold_bytes=hold, send=lambda _status, body, *_: used.append(body))
    request: Any = SimpleNamespace(principal=SimpleNamespace(tenant="acme"))
    gateway: Any = SimpleNamespace(home=null.home, clock=time.time, config=null.config)
    asyncio.run(prepare(get_content)(HandlerContext(gateway, request, response, name)).run(None))
    assert used == [threading.main_thread(), b"x" * 1_000]


def test_a_file_with_faults_makes_its_batch_fail(batches: Batches) -> None:
    batch = batches.wait(batches.create(b"\n" + write_lines(1) * 2).id)
    assert (batch.status, batch.output_file_id, batch.error_file_id) == ("failed", None, None)
    assert [(fault.code, fault.line) for fault in batch.errors.data] == [("duplicate_custom_id", 3)]
    assert batch.errors.object == "list" and batch.failed_at


def test_files(batches: Batches) -> None:
    files, data = batches.client.files, write_lines(3)
    first, second = (files.create(file=(name, data), purpose="batch") for name in ("a.jsonl", "b.jsonl"))
    assert (first.filename, first.bytes, first.purpose, first.status) == ("a.jsonl", len(data), "batch", "processed")
    assert files.retrieve(first.id) == first and files.content(first.id).content == data
    assert [file.id for file in files.list(limit=2).data] == [second.id, first.id]
    assert [file.id for file in files.list(order="asc", after=first.id).data] == [second.id]
    page = files.list(limit=1, purpose="batch")
    assert page.has_next_page() and page.get_next_page().data[0].id == first.id
    assert files.list(purpose="assistants").data == []
    assert files.delete(first.id).deleted
    for act in (files.retrieve, files.content, files.delete):
        with pytest.raises(openai.NotFoundError):
            act(first.id)


def test_batches_are_listed_newest_first(batches: Batches) -> None:
    made = [batches.create(write_lines(1)).id for _ in range(2)]
    listed = batches.client.batches.list(limit=1)
    assert [batch.id for batch in listed.data] == made[1:] and listed.has_next_page()
    assert batches.client.batches.list(after=made[1], limit=1).data[0].id == made[0]
    for batch_id in made:
        batches.wait(batch_id)
    with pytest.raises(openai.ConflictError, match="completed"):
        batches.client.batches.cancel(made[0])


def test_another_tenant_sees_nothing(batches: Batches, null: Platform) -> None:
    batch = batches.wait(batches.create(write_lines(1)).id)
    with openai_client(null, null.made_key("other")) as other:
        assert other.files.list().data == [] and other.batches.list().data == []
        for name in (batch.input_file_id, batch.output_file_id):
            with pytest.raises(openai.NotFoundError):
                other.files.content(name)
            with pytest.raises(openai.NotFoundError):
                other.files.delete(name)
            with pytest.raises(openai.NotFoundError):
                other.batches.create(input_file_id=name, endpoint=CHAT, completion_window="24h")
        for act in (other.batches.retrieve, other.batches.cancel):
            with pytest.raises(openai.NotFoundError):
                act(batch.id)


@pytest.mark.parametrize(
    "name", ["..%2Fx", "%2e%2e", "batch_" + "0" * 31, "file-zz", "_open", "file-" + "0" * 31 + ".json"]
)
def test_names_lead_nowhere_else(null: Platform, name: str) -> None:
    for path in (f"/v1/files/{name}", f"/v1/files/{name}/content", f"/v1/batches/{name}"):
        assert null.get(path).status == 404


def test_refusals(batches: Batches, null: Platform) -> None:
    client = batches.client
    with pytest.raises(openai.BadRequestError, match="purpose"):
        client.files.create(file=b"x", purpose="fine-tune")
    with pytest.raises(openai.BadRequestError, match="expires_after"):
        client.files.create(file=b"x", purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600})
    assert null.ask("POST", "/v1/files", b"{}").status == 400
    file = client.files.create(file=b"x", purpose="batch").id
    asked: dict[str, Any] = {"input_file_id": file, "endpoint": CHAT, "completion_window": "24h"}
    many = {f"k{n}": "" for n in range(17)}
    for wrong in ({"endpoint": "/v1/rerank"}, {"completion_window": "1h"}, {"metadata": many}, {"input_file_id": 5}):
        assert null.ask("POST", "/v1/batches", {**asked, **wrong}).status == 400
    for query in ("limit=0", "limit=101", "limit=x", "order=up"):
        assert null.get(f"/v1/batches?{query}").status == 400
    assert null.get("/v1/files", key=null.made_key("acme", "monitor")).status == 403
