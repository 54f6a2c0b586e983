"""The reader of documents where it is not installed, and where a document takes too long."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from typing import Any

import pytest
from tests.lake.documents.sample_documents import make_pdf
from tests.tools.checks import until_async

from archwright.lake.documents import parser_process
from archwright.serving.http.errors import ApiError
from archwright.serving.requests import document_text
from archwright.serving.requests.document_text import DocumentReader, DocumentReference

PDF = base64.b64encode(make_pdf(b"BT /F 12 Tf (word) Tj ET")).decode()


@pytest.fixture
def reader() -> Iterator[DocumentReader]:
    made = DocumentReader()
    yield made
    made.close()


def test_a_missing_extra_is_named_with_its_install_line(
    reader: DocumentReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parser_process, "LIBRARIES", ("a_package_that_nobody_has",))
    with pytest.raises(ApiError) as caught:
        asyncio.run(reader.insert_texts([DocumentReference.of("messages.0.content.0", PDF)], [], "t"))
    assert (caught.value.status, caught.value.param) == (400, "messages.0.content.0")
    assert "pip install 'archwright[documents]'" in caught.value.message


def test_the_event_loop_runs_while_a_document_is_read(reader: DocumentReader, processes: None) -> None:
    """Also in a string beside other parts; the start of the parser takes about a second."""
    document = DocumentReference.of("messages.0.content.0", PDF)
    parts: list[dict[str, Any]] = [{"type": "text", "text": f"<{document.mark}>"}, {"type": "image_url"}]
    messages: list[dict[str, Any]] = [{"content": parts}, {"content": document.mark}, {"content": None}]

    async def run() -> int:
        task, ticks = asyncio.ensure_future(reader.insert_texts([document], messages, "t")), 0
        while not task.done():
            await asyncio.sleep(0.005)
            ticks += 1
        assert await task == 4
        return ticks

    assert asyncio.run(run()) > 5
    assert (parts[0]["text"], messages[1]["content"]) == ("<word>", "word")


def test_a_document_that_takes_too_long_is_refused(monkeypatch: pytest.MonkeyPatch, processes: None) -> None:
    monkeypatch.setattr(document_text, "LIMITS", document_text.LIMITS._replace(wall_s=0))
    long = base64.b64encode(make_pdf(*[b"BT /F 12 Tf %b ET" % (b"(word) Tj " * 5_000)] * 90)).decode()
    reader = DocumentReader()
    try:
        with pytest.raises(ApiError, match="cannot be read: took longer"):
            asyncio.run(reader.insert_texts([DocumentReference.of("at", long)], [], "t"))
    finally:
        reader.close()


def make_slow_document(pages: int = 90) -> DocumentReference:
    text = make_pdf(*[b"BT /F 12 Tf %b ET" % (b"(word) Tj " * 5_000)] * pages)
    return DocumentReference.of("at", base64.b64encode(text).decode())


def test_many_documents_of_a_tenant_delay_another_by_one_of_them(reader: DocumentReader, processes: None) -> None:
    """The loud tenant sends eight before the quiet tenant sends one."""
    done: list[str] = []

    async def read(name: str, *documents: DocumentReference) -> None:
        await reader.insert_texts(documents, [], name)
        done.append(name)

    async def run() -> None:
        words = [DocumentReference.of("at", PDF) for _ in range(9)]
        loud = [asyncio.create_task(read("loud", word)) for word in words[:8]]
        await asyncio.sleep(0)
        quiet = asyncio.create_task(read("quiet", words[8]))
        await asyncio.gather(*loud, quiet)

    asyncio.run(run())
    assert done.index("quiet") == 1, done
    assert reader.queue.waiting == 0


def test_a_document_whose_client_left_ends_at_once_and_the_next_one_is_read(
    reader: DocumentReader, processes: None
) -> None:
    async def run() -> int:
        await reader.insert_texts([DocumentReference.of("at", PDF)], [], "warm")
        child = reader._parser._child
        assert child is not None
        left = asyncio.create_task(reader.insert_texts([make_slow_document()], [], "loud"))
        await until_async(lambda: reader.queue.is_busy)
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
        assert child.process.returncode is not None, "its process still reads for nobody"
        return await reader.insert_texts([DocumentReference.of("at", PDF)], [{"content": "x"}], "quiet")

    assert asyncio.run(run()) == 4
