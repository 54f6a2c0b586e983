"""Model repositories on the hub (Hugging Face, or a server with its interface), read with huggingface_hub.

A repository is read at one commit. Its answers are foreign: names that leave a folder are refused, a file is cut at its
stated size, and its digest must match before it gets a name.
"""

import fcntl
import hashlib
import os
import re
import shlex
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, BinaryIO, NamedTuple
from urllib.parse import quote

import msgspec

from archwright.errors import ErrorLocation, MissingError, OperateError, UsageError, require_extra
from archwright.home import open_private
from archwright.journal import report_step
from archwright.settings import HubAccess, disable_telemetry

REFERENCE = re.compile(r"hf:(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?(:(?P<choice>\S+))?")
ANSWER_WITHIN_S = 30.0
LISTING_LIMIT_BYTES = 16 << 20
PIECE_BYTES = 1 << 18
# Space that stays free beside a download.
DISK_MARGIN_BYTES = 64 << 20
REPORT_EVERY_S = 0.25
GENERATING_TAGS = ("text-generation", "image-text-to-text")
WEB_PAGES = (b"<!doctype html", b"<html")


class HubReference(NamedTuple):
    """`hf:ORG/REPO[@REVISION][:FILE or quantisation]`; empty parts are not stated."""

    repository: str
    revision: str = ""
    choice: str = ""


class HubFile(NamedTuple):
    """A file of a repository. Large files state their SHA-256, small ones the digest of their git object (SHA-1)."""

    name: str
    size_bytes: int
    sha256: str
    git_digest: str


class HubRepository(NamedTuple):
    """`commit` pins the files. Empty `licence`: the page states none. `generates`: it writes text."""

    id: str
    commit: str
    licence: str
    generates: bool
    files: tuple[HubFile, ...]


def parse_reference(text: str) -> HubReference:
    """Raises UsageError AW-USE-12 for a text of another form."""
    found = REFERENCE.fullmatch(text)
    if found is None or re.search(r"\.\.|--|/[.-]", found["repository"]) or ".." in (found["revision"] or ""):
        hint = "write for example hf:Qwen/Qwen3-4B-GGUF or hf:Qwen/Qwen3-4B-GGUF:Q8_0"
        where = ErrorLocation(field=text)
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
            found = msgspec.json.decode(data, type=_Listing)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise _wrong_answer_error(reference.repository, f"not the list of files of a hub: {error}") from error
        files = tuple(
            HubFile(one.rfilename, one.size, one.lfs.sha256 if one.lfs else "", one.blobId) for one in found.siblings
        )
        for file in files:
            path = PurePosixPath(file.name)
            if path.is_absolute() or ".." in path.parts or re.search(r"[\\\0-\x1f]", file.name):
                raise _wrong_answer_error(reference.repository, f"the name {file.name!r} leaves its folder")
        generates = found.pipeline_tag in GENERATING_TAGS
        return HubRepository(reference.repository, found.sha, _find_licence(found), generates, files)

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
        with open_private(part, "a+b") as data, _locked(data, part, repository.id):
            sink = _CheckedFile(data, file, repository)
            try:
                with self._explained(f"{repository.id}: {file.name}"):
                    self._downloads.http_get(
                        url, sink, resume_size=sink.done, headers=self._headers(), expected_size=file.size_bytes
                    )
                sink.finish()
            except OSError as error:
                # The client reports a body that is too short by a plain OSError.
                if error.errno is None:
                    raise _incomplete_error(repository.id, sink.done, file) from error
                raise
            finally:
                if not sink.done:
                    part.unlink(missing_ok=True)

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
            hint = f"accept them on {page} with an account, then set HF_TOKEN to a token of the account"
            return MissingError("AW-GET-06", message, where=where, hint=hint)
        if status == 401 and self._access.token:
            hint = "set HF_TOKEN to a valid token, or remove it for public models"
            return MissingError("AW-GET-06", f"the hub refuses the token for {subject}", where=where, hint=hint)
        if status in (401, 404):
            hint = "check the name on the hub's page; for a private repository set HF_TOKEN"
            return MissingError("AW-GET-07", f"the hub has no public {subject}", where=where, hint=hint)
        hint = "connect to a network or set HF_ENDPOINT, then run the command again: it continues its download"
        reason = f"the hub answered with status {status}" if status else f"the hub cannot be reached ({error})"
        return MissingError("AW-GET-03", f"{subject} cannot be fetched: {reason}"[:300], where=where, hint=hint)


class _LargeFile(msgspec.Struct):
    sha256: str


class _Sibling(msgspec.Struct):
    rfilename: str
    size: int = 0
    blobId: str = ""
    lfs: _LargeFile | None = None


class _Listing(msgspec.Struct):
    """The part of the hub's description of a repository that is read."""

    sha: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{40,64}$")]
    siblings: list[_Sibling]
    tags: list[str] = []
    pipeline_tag: str | None = None
    cardData: dict[str, Any] | None = None


def _find_licence(found: _Listing) -> str:
    card = found.cardData or {}
    stated = card.get("license_name") if card.get("license") == "other" else card.get("license")
    tagged = next((tag.removeprefix("license:") for tag in found.tags if tag.startswith("license:")), "")
    return stated if isinstance(stated, str) else tagged


@contextmanager
def _locked(data: BinaryIO, part: Path, repository: str) -> Iterator[None]:
    """Hold the lock of a partial file. A command that waited could get a file that the other one just renamed."""
    try:
        fcntl.flock(data, fcntl.LOCK_EX | fcntl.LOCK_NB)
        mine = part.exists() and os.path.samestat(os.fstat(data.fileno()), part.stat())
    except BlockingIOError:
        mine = False
    if not mine:
        where, hint = ErrorLocation(str(part)), "wait until it ends, then run the command again"
        raise MissingError("AW-GET-08", f"another command fetches {repository}", where=where, hint=hint)
    yield


class _CheckedFile:
    """The sink of a download: at most the stated bytes, digested as they arrive, with the rate on the way."""

    done: int

    def __init__(self, data: BinaryIO, file: HubFile, repository: HubRepository) -> None:
        self._data, self._file, self._repository = data, file, repository
        self._began, self._reported = time.monotonic(), 0.0
        self._restart()
        data.seek(0)
        if os.fstat(data.fileno()).st_size > file.size_bytes:
            self.truncate()
        while piece := data.read(PIECE_BYTES):
            self._digest(piece)
        self._before = self.done

    def _restart(self) -> None:
        self.done = self._before = 0
        git_object = b"blob %d\0" % self._file.size_bytes
        self._hash = hashlib.sha256() if self._file.sha256 else hashlib.sha1(git_object, usedforsecurity=False)

    def _digest(self, piece: bytes) -> None:
        self._hash.update(piece)
        self.done += len(piece)

    def write(self, piece: bytes) -> int:
        if self.done == 0 and piece.lstrip().lower().startswith(WEB_PAGES) and not self._file.name.endswith(".html"):
            raise self._refuse("the server sent a web page")
        if self.done + len(piece) > self._file.size_bytes:
            raise self._refuse(f"the server sent more than its {self._file.size_bytes} bytes")
        self._data.write(piece)
        self._digest(piece)
        self._report()
        return len(piece)

    def tell(self) -> int:
        return self.done

    def seek(self, place: int) -> int:
        """The client goes back to the start only, if the server does not continue a download."""
        return place

    def truncate(self) -> None:
        self._data.truncate(0)
        self._restart()

    def finish(self) -> None:
        self._data.flush()
        os.fsync(self._data.fileno())
        found, stated = self._hash.hexdigest(), self._file.sha256 or self._file.git_digest
        if found != stated:
            raise self._refuse(f"its digest is {found}, not {stated}")

    def _refuse(self, reason: str) -> MissingError:
        self.truncate()
        return _wrong_answer_error(self._repository.id, f"{self._file.name}: {reason}")

    def _report(self) -> None:
        now = time.monotonic()
        if now - self._reported < REPORT_EVERY_S:
            return
        self._reported = now
        rate = (self.done - self._before) / max(now - self._began, 1e-3)
        left_s = (self._file.size_bytes - self.done) / max(rate, 1.0)
        licence = self._repository.licence or "licence not stated"
        report_step(
            f"fetching {self._file.name} ({licence}): {self.done / 1e6:,.0f} of {self._file.size_bytes / 1e6:,.0f} MB, "
            f"{rate / 1e6:.1f} MB/s, {left_s:.0f} s left"
        )


def _wrong_answer_error(repository: str, reason: str) -> MissingError:
    hint = "run the command again; if it fails again, use another repository or HF_ENDPOINT"
    message = f"the hub's answer for {repository} is wrong: {reason}"
    return MissingError("AW-GET-04", message, where=ErrorLocation(field=repository), hint=hint)


def _incomplete_error(repository: str, done: int, file: HubFile) -> MissingError:
    hint = "run the command again: it continues the download"
    message = f"the download of {file.name} ended after {done} of {file.size_bytes} bytes"
    return MissingError("AW-GET-03", message, where=ErrorLocation(field=repository), hint=hint)


def check_space(folder: Path, size_bytes: int) -> None:
    """Raise OperateError AW-OPS-01 if the disk has no space for so many more bytes."""
    if shutil.disk_usage(folder).free < size_bytes + DISK_MARGIN_BYTES:
        hint = "free space, choose a smaller quantisation, or set ARCHWRIGHT_HOME to a folder on another disk"
        message = f"the disk has no space for the {size_bytes / 1e9:.2f} GB of this model"
        raise OperateError("AW-OPS-01", message, where=ErrorLocation(str(folder)), hint=hint)
