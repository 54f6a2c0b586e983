"""Read the text of PDF documents in a request, in the sandboxed parser of the lake.

Design: a text that no caller can foresee marks the place of a document in the engine's request, because validation
copies the messages. One thread of the process reads documents, so they delay each other and no other request. Tenants
take turns, document by document. A document that exceeds LIMITS, or whose client left, ends with its process.
"""

import asyncio
import base64
import os
import secrets
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, NamedTuple

from archwright.errors import MissingError
from archwright.lake.documents.document_parser import DocumentParser, ParserLimits
from archwright.serving.http.errors import invalid_value, unsupported_value
from archwright.serving.requests.tenant_work_queue import TenantWorkQueue

MAX_PAGES = 100
LIMITS = ParserLimits(memory_mb=512, wall_s=20, cpu_s=10, document_mb=24, output_mb=4)


class DocumentReference(NamedTuple):
    """A PDF in a request. `at`: its path; `data`: base64; `mark`: stands for its text in the messages."""

    at: str
    data: str
    mark: str

    @classmethod
    def of(cls, at: str, data: str) -> "DocumentReference":
        return cls(at, data, f"[document {secrets.token_hex(16)}]")


class DocumentReader:
    """One per process."""

    def __init__(self) -> None:
        self._parser, self._thread = DocumentParser(LIMITS), ThreadPoolExecutor(1, "documents")
        self.queue = TenantWorkQueue(1)

    async def insert_texts(
        self, documents: Iterable[DocumentReference], messages: Sequence[dict[str, Any]], tenant: str
    ) -> int:
        """Put the documents' texts into the messages. Return their characters. Raises ApiError 400."""
        characters = 0
        for document in documents:
            async with self.queue.hold_place(tenant):
                text = await self._read_in_thread(document)
            characters += len(text)
            for message in messages:
                content = message["content"]
                if type(content) is str:
                    message["content"] = content.replace(document.mark, text)
                for part in content if type(content) is list else ():
                    if part["type"] == "text":
                        part["text"] = part["text"].replace(document.mark, text)
        return characters

    async def _read_in_thread(self, document: DocumentReference) -> str:
        job = self._thread.submit(self._read_pdf, document)
        reading = asyncio.wrap_future(job)
        try:
            return await asyncio.shield(reading)
        except asyncio.CancelledError:  # nobody waits for the text any more, but others wait for the thread
            if not job.cancel():
                self._parser.kill_child()
                await asyncio.gather(reading, return_exceptions=True)
                self._parser.close()
            raise

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._parser.close()

    def _read_pdf(self, document: DocumentReference) -> str:
        at = document.at
        try:
            with _open_memory() as file:
                file.write(base64.b64decode(document.data))
                file.seek(0)
                found = self._parser.parse_file(Path(f"/dev/fd/{file.fileno()}"), "pdf")
        except MissingError as error:
            message = f"{at}: this gateway reads no PDF documents. Its operator can install the reader: {error.hint}"
            raise unsupported_value(message, at) from error
        except ValueError as error:
            raise invalid_value(f"{at}: the document is not valid base64", at) from error
        text = "\n\n".join(page.text for page in found.pages)
        problem = found.broken or ("" if text.strip() else "it has no text; send its pages as images")
        if problem or len(found.pages) > MAX_PAGES:
            problem = problem or f"it has more than {MAX_PAGES} pages"
            raise invalid_value(f"{at}: the PDF document cannot be read: {problem}", at)
        return text


def _open_memory() -> IO[bytes]:
    """Open a file in memory, so that no document reaches a disk; without Linux a deleted file."""
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("document"), "w+b")
    return tempfile.TemporaryFile()
