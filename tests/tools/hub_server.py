"""A hub of models on this machine: the HTTP of huggingface.co that its client uses to list and to download files.

Repositories are folders ORG/REPO below a root. As on the hub, large files have a SHA-256 and are redirected to another
path, small files have the digest of their git object, and an unknown repository is answered like a private one. Faults
are per file name, or `api` for the list of files.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

from .http_server import QuietHandler, ServerThread

LARGE_SUFFIXES = (".gguf", ".safetensors", ".onnx", ".bin", ".onnx_data")
PIECE_BYTES = 1 << 16


@dataclass
class Fault:
    """What goes wrong with the first `times` requests of a file.

    `cut_after`: bytes of the body, then the connection is closed. `short_by`: bytes that even the stated length lacks.
    """

    status: int = 0
    code: str = ""
    cut_after: int | None = None
    short_by: int = 0
    wrong_bytes: bool = False
    endless: bool = False
    web_page: bool = False
    no_ranges: bool = False
    bytes_per_s: float = 0.0
    times: int = 1_000_000


@dataclass
class Repository:
    """`gated`: files need a token of `HubServer.tokens`. `extra`: names that are listed but do not exist."""

    licence: str = "apache-2.0"
    gated: bool = False
    extra: tuple[str, ...] = ()
    no_digests: bool = False
    pipeline: str | None = None


@dataclass
class Heard:
    """A request: its method and path, and what the client sent with it."""

    method: str
    path: str
    begins: int
    authorization: str | None


@cache
def _digests(path: Path, _stamp: int) -> tuple[str, str]:
    data = path.read_bytes()
    return hashlib.sha256(data).hexdigest(), hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class HubServer:
    """Serves while its `with` block runs. `url`: the value of HF_ENDPOINT; `content_url`: another host of the files."""

    root: Path
    repositories: dict[str, Repository] = field(default_factory=dict)
    faults: dict[str, Fault] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    heard: list[Heard] = field(default_factory=list)
    url: str = ""
    content_url: str = ""

    def __enter__(self) -> HubServer:
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self._server = ServerThread(Handler)
        self.url = f"http://127.0.0.1:{self._server.port}"
        return self

    def __exit__(self, _type: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        self._server.close()

    def downloaded(self) -> Counter[str]:
        """How many requests for the bytes of each file came."""
        return Counter(
            one.path.rpartition("/")[2] for one in self.heard if one.method == "GET" and "/api/" not in one.path
        )

    def files(self, repository: str) -> list[Path]:
        return sorted(path for path in (self.root / repository).rglob("*") if path.is_file())

    def commit(self, repository: str) -> str:
        names = [f"{path.name} {self.digests(path)[0]}" for path in self.files(repository)]
        return hashlib.sha1("\n".join(names).encode()).hexdigest()

    def digests(self, path: Path) -> tuple[str, str]:
        return _digests(path, path.stat().st_mtime_ns)

    def describe(self, repository: str) -> dict[str, Any]:
        facts = self.repositories.get(repository, Repository())
        listed: list[dict[str, Any]] = []
        for path in self.files(repository):
            sha256, git = self.digests(path)
            size = path.stat().st_size
            one: dict[str, Any] = {"rfilename": path.relative_to(self.root / repository).as_posix(), "size": size}
            if not facts.no_digests:
                one["blobId"] = git
            if path.name.endswith(LARGE_SUFFIXES) and not facts.no_digests:
                one["lfs"] = {"sha256": sha256, "size": size, "pointerSize": 134}
            listed.append(one)
        listed += [{"rfilename": name, "size": 4, "blobId": "0" * 40} for name in facts.extra]
        card = {"license": facts.licence} if facts.licence else {}
        return {
            **{"_id": "0", "id": repository, "modelId": repository, "sha": self.commit(repository), "private": False},
            **{"gated": "manual" if facts.gated else False, "siblings": listed, "cardData": card, "downloads": 1},
            "pipeline_tag": facts.pipeline,
            **{"tags": [f"license:{facts.licence}"] if facts.licence else [], "likes": 1},
        }


class _Handler(QuietHandler):
    server_hub: HubServer

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub, path = self.server_hub, unquote(urlsplit(self.path).path)
        begins = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        hub.heard.append(Heard(self.command, path, begins, self.headers.get("Authorization")))
        try:
            if path.startswith("/api/models/"):
                self._list(path.removeprefix("/api/models/"))
            elif "/resolve/" in path:
                self._resolve(path)
            elif path.startswith("/cdn/"):
                self._send_file(hub.root / path.removeprefix("/cdn/"), begins)
            else:
                self.send(404, b"")
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _list(self, rest: str) -> None:
        repository, _, revision = rest.partition("/revision/")
        fault = self._take_fault("api")
        if fault.status:
            self.send(fault.status, b"", {"X-Error-Code": fault.code} if fault.code else {})
        elif fault.web_page:
            self.send(200, b"<!doctype html><html>a portal</html>", {"Content-Type": "text/html"})
        elif not self.server_hub.files(repository):
            self.send(401, b"", {"X-Error-Code": "RepoNotFound"})
        elif revision not in ("", "main", self.server_hub.commit(repository)):
            self.send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        else:
            body = json.dumps(self.server_hub.describe(repository)).encode()
            self.send(200, body, {"Content-Type": "application/json"})

    def _resolve(self, path: str) -> None:
        hub = self.server_hub
        repository, _, rest = path.lstrip("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        file = hub.root / repository / name
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if hub.repositories.get(repository, Repository()).gated and token not in hub.tokens:
            self.send(403 if token else 401, b"", {"X-Error-Code": "GatedRepo"})
        elif revision not in ("main", hub.commit(repository)):
            self.send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        elif not file.is_file():
            self.send(404, b"", {"X-Error-Code": "EntryNotFound"})
        elif name.endswith(LARGE_SUFFIXES):
            headers = {"Location": f"{hub.content_url or hub.url}/cdn/{repository}/{name}", "X-Repo-Commit": revision}
            headers |= {"X-Linked-Size": str(file.stat().st_size), "X-Linked-Etag": f'"{hub.digests(file)[0]}"'}
            self.send(302, b"", headers)
        else:
            self._send_file(file, 0)

    def _take_fault(self, name: str) -> Fault:
        fault = self.server_hub.faults.get(name)
        if fault is None or fault.times < 1:
            return Fault()
        fault.times -= 1
        return fault

    def _send_file(self, path: Path, begins: int) -> None:
        fault = self._take_fault(path.name)
        data = path.read_bytes()
        whole = len(data)
        if fault.no_ranges:
            begins = 0
        if fault.status:
            self.send(fault.status, b"", {"X-Error-Code": fault.code} if fault.code else {})
            return
        if fault.web_page:
            self.send(200, b"<!DOCTYPE html><html>sign in</html>", {"Content-Type": "text/html"})
            return
        if fault.wrong_bytes:
            data = data[:-64] + bytes(byte ^ 1 for byte in data[-64:])
        body = data[begins : whole - fault.short_by]
        self.send_response(206 if begins else 200)
        self.send_header("ETag", f'"{self.server_hub.digests(path)[0]}"')
        self.send_header("Accept-Ranges", "bytes")
        if begins:
            self.send_header("Content-Range", f"bytes {begins}-{whole - 1}/{whole}")
        if fault.endless:
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self._send_body(body, fault)

    def _send_body(self, body: bytes, fault: Fault) -> None:
        if self.command == "HEAD":
            return
        for at in range(0, len(body) if fault.cut_after is None else fault.cut_after, PIECE_BYTES):
            end = at + PIECE_BYTES if fault.cut_after is None else min(at + PIECE_BYTES, fault.cut_after)
            self.wfile.write(body[at:end])
            if fault.bytes_per_s:
                threading.Event().wait(PIECE_BYTES / fault.bytes_per_s)
        while fault.endless:
            self.wfile.write(bytes(PIECE_BYTES))
        if fault.cut_after is not None or fault.endless:
            self.close_connection = True
