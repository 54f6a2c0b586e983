"""A registry of images and charts on this machine, with a service of tokens, and a server of plain files.

It answers as the specification of OCI says: manifests by tag, a challenge for requests without a token, and the digest
in a header. It stands in for registries; it does not prove how a real one answers.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from types import TracebackType
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

from .http_server import QuietHandler, ServerThread

INDEX = "application/vnd.oci.image.index.v1+json"
CHART = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
TOKEN = "a-token-for-anybody"


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Heard(NamedTuple):
    path: str
    query: dict[str, list[str]]
    accept: str
    authorization: str


@dataclass
class RegistryServer:
    """Serves while its `with` block runs. `manifests`: body by NAME:TAG; `files`: body by path.

    `lies`: NAME:TAG whose header states another digest; `closed`: names that no anonymous token opens.
    """

    manifests: dict[str, bytes] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    lies: set[str] = field(default_factory=set)
    closed: set[str] = field(default_factory=set)
    heard: list[Heard] = field(default_factory=list)
    host: str = ""

    def __enter__(self) -> RegistryServer:
        registry = self

        class Handler(_Handler):
            server_registry = registry

        self._server = ServerThread(Handler)
        self.host = f"127.0.0.1:{self._server.port}"
        return self

    def __exit__(self, _type: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        self._server.close()

    def push_image(self, name: str) -> str:
        """Add an index of two platforms under NAME:TAG; return its digest."""
        platforms = [{"digest": digest_of(f"{name} {arch}".encode()), "platform": arch} for arch in ("amd64", "arm64")]
        self.manifests[name] = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": platforms}).encode()
        return digest_of(self.manifests[name])

    def push_chart(self, name: str, archive: bytes) -> str:
        """Add a chart under NAME:VERSION; return the digest of its archive."""
        layers = [
            {"mediaType": "text/plain", "digest": digest_of(b"x")},
            {"mediaType": CHART, "digest": digest_of(archive)},
        ]
        self.manifests[name] = json.dumps({"schemaVersion": 2, "config": {}, "layers": layers}).encode()
        return digest_of(archive)


class _Handler(QuietHandler):
    server_registry: RegistryServer

    def do_GET(self) -> None:
        registry, url = self.server_registry, urlsplit(self.path)
        accept, authorization = self.headers.get("Accept", ""), self.headers.get("Authorization", "")
        registry.heard.append(Heard(url.path, parse_qs(url.query), accept, authorization))
        if url.path == "/token":
            self.send(200, json.dumps({"token": TOKEN}).encode())
        elif url.path.startswith("/v2/"):
            name, _, tag = url.path.removeprefix("/v2/").partition("/manifests/")
            self._send_manifest(name, tag, authorization)
        elif url.path in registry.files:
            self.send(200, registry.files[url.path])
        else:
            self.send(404, b"")

    def _send_manifest(self, name: str, tag: str, authorization: str) -> None:
        registry = self.server_registry
        if authorization != f"Bearer {TOKEN}" or name in registry.closed:
            realm = f'Bearer realm="http://{registry.host}/token",service="registry",scope="repository:{name}:pull"'
            self.send(401, b"{}", {"WWW-Authenticate": realm})
            return
        body = registry.manifests.get(f"{name}:{tag}")
        if body is None:
            self.send(404, b"{}")
            return
        stated = digest_of(b"another") if f"{name}:{tag}" in registry.lies else digest_of(body)
        self.send(200, body, {"Docker-Content-Digest": stated, "Content-Type": INDEX})
