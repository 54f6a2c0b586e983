"""Files and batches by the official client, and what is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import openai
import pytest
from tests.serving.batches.conftest import CHAT, Batches, write_lines
from tests.serving.conftest import read_resident_bytes
from tests.serving.official_clients import openai_client

from archwright.serving.batches.batch_api import clean_filename
from archwright.serving.batches.batch_store import BatchStore
from archwright.serving.batches.open_batches import list_open_batches

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


@pytest.mark.parametrize(
    ("asked", "status", "part", "stated"),
    [
        ("bytes=0-9", 206, slice(0, 10), "bytes 0-9/200000"),
        ("bytes=65530-65545", 206, slice(65530, 65546), "bytes 65530-65545/200000"),
        ("bytes=199990-", 206, slice(199_990, None), "bytes 199990-199999/200000"),
        ("bytes=-5", 206, slice(-5, None), "bytes 199995-199999/200000"),
        ("bytes=-999999", 206, slice(None), "bytes 0-199999/200000"),
        ("bytes=100000-999999", 206, slice(100_000, None), "bytes 100000-199999/200000"),
        ("bytes=200000-", 416, None, "bytes */200000"),
        ("bytes=-0", 416, None, "bytes */200000"),
        ("bytes=0-1,5-6", 200, slice(None), None),
        ("bytes=9-3", 200, slice(None), None),
        ("lines=1-2", 200, slice(None), None),
        (None, 200, slice(None), None),
    ],
)
def test_a_file_is_read_in_parts(
    null: Platform, asked: str | None, status: int, part: slice | None, stated: str | None
) -> None:
    data = bytes(range(250)) * 800
    name = BatchStore(null.home, "acme").add_file("a.jsonl", data).id
    reply = null.ask("GET", f"/v1/files/{name}/content", headers={"range": asked} if asked else {})
    assert (reply.status, reply.headers.get("content-range")) == (status, stated)
    if part is None:
        assert reply.error["code"] == "invalid_range"
    else:
        assert reply.body == data[part] and reply.headers["accept-ranges"] == "bytes"


def test_a_part_is_of_the_file_that_the_client_has(null: Platform) -> None:
    name = BatchStore(null.home, "acme").add_file("a.jsonl", b"0123456789").id
    path, tag = f"/v1/files/{name}/content", null.get(f"/v1/files/{name}/content").headers["etag"]
    for condition, status in ((tag, 206), ('"other"', 200)):
        reply = null.ask("GET", path, headers={"range": "bytes=2-3", "if-range": condition})
        assert reply.status == status
    empty = BatchStore(null.home, "acme").add_file("a.jsonl", b"").id
    assert (null.get(f"/v1/files/{empty}/content").body, null.get(f"/v1/files/{name}/content").status) == (b"", 200)


def test_a_worker_does_not_grow_with_the_files_that_clients_read(null: Platform) -> None:
    """Clients that do not read hold a block and the buffers of their connections, not the file."""
    size, clients = 200 << 20, 8
    store = BatchStore(null.home, "acme")
    name = store.add_file("a.jsonl", b"").id
    os.truncate(store.path(name, "jsonl"), size)

    def read_memory() -> int:
        return sum(read_resident_bytes(pid) for pid in null.workers)

    before = read_memory()
    with ExitStack() as opened:
        for _ in range(clients):
            client = opened.enter_context(null.open_get(f"/v1/files/{name}/content"))
            head = client.recv(4096)
            assert head.startswith(b"HTTP/1.1 200") and b"content-length: %d\r\n" % size in head
        assert null.chat().status == 200
        assert read_memory() - before < clients * (2 << 20)
    with closing(null.connection()) as connection:
        connection.request("GET", f"/v1/files/{name}/content", headers={"authorization": f"Bearer {null.key}"})
        reply = connection.getresponse()
        count = sum(len(piece) for piece in iter(lambda: reply.read(1 << 20), b""))
        assert count == size and read_memory() - before < 48 << 20
        connection.request("GET", f"/v1/files/{name}", headers={"authorization": f"Bearer {null.key}"})
        assert connection.getresponse().status == 200, "the connection cannot be used again"
    store.delete_file(name)


def test_requests_about_files_and_batches_count_against_rates(null: Platform) -> None:
    key = null.made_key("acme", rpm=4)
    with openai_client(null, key) as client:
        batches = Batches(client)
        with pytest.raises(openai.RateLimitError, match="4 requests per minute"):
            for _ in range(3):
                batches.create(write_lines(1, max_tokens=-1))
    null.until(lambda: not list_open_batches(null.home))  # no result file is added later
    before = len([*null.home.batches.glob("acme/*.jsonl")])
    form = b'--x\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--x--\r\n'
    headers = {"content-type": "multipart/form-data; boundary=x"}
    for method, path in (("GET", "/v1/files"), ("GET", "/v1/batches"), ("GET", "/v1/files/file-0/content")):
        assert null.ask(method, path, key=key).status == 429
    assert null.ask("POST", "/v1/files", form, key=key, headers=headers).status == 429
    assert len([*null.home.batches.glob("acme/*.jsonl")]) == before
    one = null.made_key("acme", rpm=1)
    assert [null.ask("GET", "/v1/files", key=one).status for _ in range(2)] == [200, 429]
    large = null.made_key("acme", rpm=2)
    refused = form.replace(b"batch", b"x" * 40_000)
    statuses = [null.ask("POST", "/v1/files", refused, key=large, headers=headers).status for _ in range(3)]
    assert statuses == [400, 400, 429], "a request counts once, also if its body is large"


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("../../../etc/x", "x"),
        ("C:\\\\dir\\\\in.jsonl", "in.jsonl"),
        ("..", "file"),
        ("a\u202egpj.jsonl", "agpj.jsonl"),
        ("a\x1b[2J.jsonl", "a[2J.jsonl"),
        ("Grüße 1.jsonl", "Grüße 1.jsonl"),
        ("x" * 300, "x" * 255),
    ],
)
def test_a_filename_is_no_path_and_no_escape(sent: str, kept: str) -> None:
    assert clean_filename(sent) == kept


def test_an_upload_keeps_only_the_name_of_its_file(batches: Batches) -> None:
    assert batches.client.files.create(file=("../../../etc/x", b"{}"), purpose="batch").filename == "x"


def test_the_key_of_a_batch_is_shown_to_itself(batches: Batches, null: Platform) -> None:
    batch = batches.create(write_lines(600, model="slow"))  # it must still run when it is cancelled
    own = batches.client.batches.retrieve(batch.id).to_dict()["key_id"]
    assert own == batch.to_dict()["key_id"] is not None
    with openai_client(null, null.made_key("acme")) as colleague:
        assert colleague.batches.retrieve(batch.id).to_dict()["key_id"] is None
        assert {one.to_dict()["key_id"] for one in colleague.batches.list()} == {None}
        assert colleague.batches.cancel(batch.id).to_dict()["key_id"] is None
    batches.wait(batch.id)


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
