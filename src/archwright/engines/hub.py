"""Model repositories on the hub (Hugging Face, or a server with its interface), read with huggingface_hub.

A repository is read at one commit. Its answers are foreign: names that leave a folder are refused, a file is cut at its
stated size, and its digest must match before it gets a name.
"""

import fcntl
import hashlib
import io
import os
import re
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, BinaryIO, NamedTuple
from urllib.parse import quote

import msgspec

from archwright.contract.stored_model import describe_licence
from archwright.errors import ErrorLocation, MissingError, UsageError, require_extra
from archwright.home import open_private
from archwright.journal import report_step
from archwright.settings import HubAccess, disable_telemetry

REFERENCE = re.compile(r"hf:(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?(:(?P<choice>\S+))?")
ANSWER_WITHIN_S = 30.0
LISTING_LIMIT_BYTES = 16 << 20
PIECE_BYTES = 1 << 18
REPORT_EVERY_S = 0.25
GENERATING_TAGS = ("text-generation", "image-text-to-text")
WEB_PAGES = (b"<!doctype html", b"<html")
# Statuses of a hub that is asked too often, or that is busy.
BUSY = (429, 500, 502, 503, 504)


class HubReference(NamedTuple):
    """`hf:ORG/REPO[@REVISION][:FILE or quantisation]`; empty parts are not stated."""

    repository: str
    revision: str = ""
    choice: str = ""


class _LargeFile(msgspec.Struct, frozen=True):
    sha256: str


class HubFile(msgspec.Struct, frozen=True, rename={"name": "rfilename", "size_bytes": "size", "git_digest": "blobId"}):
    """A file of a repository. Large files state their SHA-256, small ones the digest of their git object (SHA-1)."""

    name: str
    size_bytes: int = 0
    git_digest: str = ""
    lfs: _LargeFile | None = None

    @property
    def sha256(self) -> str:
        return self.lfs.sha256 if self.lfs else ""


class HubRepository(msgspec.Struct, frozen=True, rename={"commit": "sha", "files": "siblings", "card": "cardData"}):
    """The part of the hub's description that is read. `commit` pins the files."""

    commit: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{40,64}$")]
    files: tuple[HubFile, ...]
    id: str = ""
    tags: tuple[str, ...] = ()
    pipeline_tag: str | None = None
    card: dict[str, Any] | None = None

    @property
    def generates(self) -> bool:
        """True if it writes text."""
        return self.pipeline_tag in GENERATING_TAGS

    @property
    def licence(self) -> str:
        """Empty if its page states none."""
        card = self.card or {}
        stated = card.get("license_name") if card.get("license") == "other" else card.get("license")
        tagged = next((tag.removeprefix("license:") for tag in self.tags if tag.startswith("license:")), "")
        return stated if isinstance(stated, str) else tagged


def parse_reference(text: str) -> HubReference:
    """Raises UsageError AW-USE-12 for a text of another form."""
    found = REFERENCE.fullmatch(text)
    if found is None or re.search(r"\.\.|--|/[.-]", found["repository"]) or ".." in (found["revision"] or ""):
        hint = "write for example hf:Qwen/Qwen3-4B-GGUF or hf:Qwen/Qwen3-4B-GGUF:Q8_0"
        where = ErrorLocation(field=text[:100])
        raise UsageError("AW-USE-12", "not a reference of the form hf:ORG/REPO[:FILE]", where=where, hint=hint)
    return HubReference(found["repository"], found["revision"] or "", found["choice"] or "")


class HubClient:
    """The requests of one command; each raises MissingError.

    AW-GET-03: no answer of a hub. AW-GET-06: access is restricted. AW-GET-07: no such repository, revision or file.
    """

    def __init__(self, access: HubAccess) -> None:
        self._access = access
        disable_telemetry()
        with require_extra("local", "a model of the hub"):
            import huggingface_hub  # noqa: PLC0415  the heavy extra of this adapter
            from huggingface_hub import file_download  # noqa: PLC0415
        self._library: Any = huggingface_hub
        self._downloads: Any = file_download
        self._library.logging.set_verbosity_error()
        self._library.utils.disable_progress_bars()
        # By default the last 10 MB are lost when a connection breaks, and the rate is known every 10 MB only.
        self._library.constants.DOWNLOAD_CHUNK_SIZE = PIECE_BYTES

    def close(self) -> None:
        self._library.close_session()

    def read_repository(self, reference: HubReference) -> HubRepository:
        """The files of the newest commit or the stated revision. Raises MissingError AW-GET-04 for a wrong answer."""
        url = f"{self._access.endpoint}/api/models/{reference.repository}"
        url += f"/revision/{quote(reference.revision, safe='')}" if reference.revision else ""
        request = {"params": {"blobs": True}, "headers": self._headers(), "timeout": ANSWER_WITHIN_S, "max_retries": 0}
        data, ask = bytearray(), self._library.utils.http_stream_backoff
        with self._explained(reference.repository), ask("GET", url, **request) as answer:
            self._library.utils.hf_raise_for_status(answer)
            for piece in answer.iter_bytes(PIECE_BYTES):
                data += piece
                if len(data) > LISTING_LIMIT_BYTES:
                    raise _wrong_answer_error(reference.repository, "the list of files is too long")
        try:
            found = msgspec.json.decode(data, type=HubRepository)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise _wrong_answer_error(reference.repository, f"not the list of files of a hub: {error}") from error
        for file in found.files:
            path = PurePosixPath(file.name)
            if path.is_absolute() or ".." in path.parts or re.search(r"[\\\0-\x1f]", file.name):
                raise _wrong_answer_error(reference.repository, f"the name {file.name[:100]!r} leaves its folder")
        return msgspec.structs.replace(found, id=reference.repository)

    def _headers(self) -> dict[str, str]:
        # Without compression, the size of a body is that of the file.
        headers = self._library.utils.build_hf_headers(token=self._access.token or False)
        return {**headers, "Accept-Encoding": "identity"}

    def download(self, repository: HubRepository, file: HubFile, part: Path) -> None:
        """Download a file to `part`, after the bytes that an earlier command left there.

        The bytes are on the disk and checked. Raises MissingError AW-GET-04 (not the stated file; removes `part`),
        AW-GET-08 (another command fetches it), AW-GET-10 (too large).
        """
        if not file.sha256 and not file.git_digest:
            raise _wrong_answer_error(repository.id, f"it states no digest of {file.name}")
        if file.size_bytes > self._library.constants.MAX_HTTP_DOWNLOAD_SIZE:
            command = f"hf download {repository.id} {shlex.quote(file.name)}"
            hint = f"run: {command}; then archwright models add FILE --name NAME"
            message, where = f"{file.name} is too large for one download over HTTP", ErrorLocation(field=repository.id)
            raise MissingError("AW-GET-10", message, where=where, hint=hint)
        url = self._library.hf_hub_url(
            repository.id, file.name, revision=repository.commit, endpoint=self._access.endpoint
        )
        with open_private(part, "ab") as lock, _PartialFile(part, file, repository) as sink:
            _take_lock(lock, part, repository.id)
            done = sink.seek(0, os.SEEK_END)  # a command that ended just now may have added bytes
            sent = {"resume_size": done, "headers": self._headers(), "expected_size": file.size_bytes}
            try:
                with self._explained(f"{repository.id}: {file.name}"):
                    self._downloads.http_get(url, sink, **sent)
                sink.check_digest()
            except OSError as error:
                # The client reports a body that is too short by a plain OSError.
                if error.errno is None:
                    hint = "run the command again: it continues the download"
                    message = f"the download of {file.name} ended after {sink.tell()} of {file.size_bytes} bytes"
                    where = ErrorLocation(field=repository.id)
                    raise MissingError("AW-GET-03", message, where=where, hint=hint) from error
                raise
            finally:
                if not part.stat().st_size:
                    part.unlink()

    @contextmanager
    def _explained(self, subject: str) -> Iterator[None]:
        try:
            yield
        except self._library.errors.HTTPError as error:
            raise self._explain_failure(subject, error) from error

    def _explain_failure(self, subject: str, error: Exception) -> MissingError:
        answer: Any = getattr(error, "response", None)
        status = 0 if answer is None else int(answer.status_code)
        where = ErrorLocation(field=f"{self._access.endpoint}/{subject}")
        page = f"{self._access.endpoint}/{subject.partition(':')[0]}"
        code = "" if answer is None else answer.headers.get("X-Error-Code", "")
        if code == "GatedRepo" or status == 403:
            message = f"{subject} is restricted: its makers want their conditions accepted first"
            hint = f"accept them on {page}, then set HF_TOKEN to a token of the account that accepted them"
            return MissingError("AW-GET-06", message, where=where, hint=hint)
        if status == 401 and self._access.token:
            hint = "set HF_TOKEN to a valid token, or remove it for public models"
            return MissingError("AW-GET-06", f"the hub refuses the token for {subject}", where=where, hint=hint)
        if status in (401, 404):
            hint = "check the name on the hub's page; for a private repository set HF_TOKEN"
            return MissingError("AW-GET-07", f"the hub has no public {subject}", where=where, hint=hint)
        hint = "connect to a network or set HF_ENDPOINT, then run the command again: it continues its download"
        if status in BUSY:
            hint = "wait some minutes, then run the command again; a hub limits requests without HF_TOKEN more"
        reason = f"the hub answered with status {status}" if status else f"the hub cannot be reached ({error})"
        return MissingError("AW-GET-03", f"{subject} cannot be fetched: {reason}"[:300], where=where, hint=hint)


def _take_lock(file: BinaryIO, part: Path, repository: str) -> None:
    """Lock a partial file until it is closed. A command that waited could get a file that the other one just moved."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        mine = part.exists() and os.path.samestat(os.fstat(file.fileno()), part.stat())
    except BlockingIOError:
        mine = False
    if not mine:
        where, hint = ErrorLocation(str(part)), "wait until it ends, then run the command again"
        raise MissingError("AW-GET-08", f"another command fetches {repository}", where=where, hint=hint)


class _PartialFile(io.FileIO):
    """The part of a file that has arrived: takes at most the stated bytes, and reports the rate on the way."""

    def __init__(self, part: Path, file: HubFile, repository: HubRepository) -> None:
        super().__init__(part, "a")
        if self.tell() > file.size_bytes:
            self.truncate(0)
            self.seek(0)
        self._file, self._repository = file, repository
        self._before, self._began, self._reported = self.tell(), time.monotonic(), 0.0

    def write(self, piece: Any) -> int:
        done, size = self.tell(), self._file.size_bytes
        if done == 0 and piece.lstrip().lower().startswith(WEB_PAGES) and not self._file.name.endswith(".html"):
            raise self._refuse("the server sent a web page")
        if done + len(piece) > size:
            raise self._refuse(f"the server sent more than its {size} bytes")
        left = memoryview(piece)
        while left:
            left = left[super().write(left) :]
        self._report(done + len(piece))
        return len(piece)

    def check_digest(self) -> None:
        """Call it at the end. Raises MissingError AW-GET-04, and removes the bytes."""
        report_step(f"checking the digest of {self._file.name}")
        os.fsync(self.fileno())
        git_object = partial(hashlib.sha1, b"blob %d\0" % self._file.size_bytes, usedforsecurity=False)
        with open(self.name, "rb") as data:
            found = hashlib.file_digest(data, "sha256" if self._file.sha256 else git_object).hexdigest()
        if found != (stated := self._file.sha256 or self._file.git_digest):
            raise self._refuse(f"its digest is {found}, not {stated}")

    def _refuse(self, reason: str) -> MissingError:
        self.truncate(0)
        return _wrong_answer_error(self._repository.id, f"{self._file.name}: {reason}")

    def _report(self, done: int) -> None:
        now, size = time.monotonic(), self._file.size_bytes
        if now - self._reported < REPORT_EVERY_S:
            return
        self._reported = now
        rate = max(done - self._before, 0) / max(now - self._began, 1e-3)
        report_step(
            f"fetching {self._file.name} ({describe_licence(self._repository.licence)}): {done / 1e6:,.0f} of "
            f"{size / 1e6:,.0f} MB, {rate / 1e6:.1f} MB/s, {(size - done) / max(rate, 1.0):.0f} s left"
        )


def _wrong_answer_error(repository: str, reason: str) -> MissingError:
    hint = "run the command again; if it fails again, use another repository or HF_ENDPOINT"
    message = f"the hub's answer for {repository} is wrong: {reason}"
    return MissingError("AW-GET-04", message, where=ErrorLocation(field=repository), hint=hint)
