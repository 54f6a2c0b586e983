"""A client of the gateway that a bundle started, and clients that ask all the time."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import ssl
from pathlib import Path
from typing import NamedTuple

from tests.serving.conftest import certified
from tests.tools.checks import WAIT_S
from tests.tools.client_threads import ClientThreads


class CertificatePair(NamedTuple):
    """The files of a certificate for 127.0.0.1 and of its key."""

    certificate: Path
    key: Path

    @property
    def pem(self) -> str:
        return self.certificate.read_text()

    def install(self, folder: Path, user: int) -> None:
        """Write the pair as tls.crt and tls.key, or over those of before; the gateway's user owns the key."""
        folder.mkdir(exist_ok=True)
        key = folder / "tls.key"
        key.touch(0o600)
        if os.getuid() == 0:
            os.chown(key, user, user)
        shutil.copyfile(self.key, key)
        shutil.copyfile(self.certificate, folder / "tls.crt")


def make_pair(folder: Path) -> CertificatePair:
    folder.mkdir()
    certificate, key = certified(folder)
    return CertificatePair(Path(certificate), Path(key))


class GatewayClient:
    """Asks the gateway on a port of this machine, by TLS after `trust`. `key` is set when there is one."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.key = ""
        self._trusted: ssl.SSLContext | None = None

    def trust(self, *pairs: CertificatePair) -> None:
        """Ask by TLS from now on, and accept only these certificates; without any, ask without TLS."""
        self._trusted = ssl.create_default_context(cadata="".join(pair.pem for pair in pairs)) if pairs else None

    def show_certificate(self) -> str:
        """Return the certificate that a new connection gets."""
        return ssl.get_server_certificate(("127.0.0.1", self.port), timeout=WAIT_S)

    def connect(self) -> http.client.HTTPConnection:
        if self._trusted is None:
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=WAIT_S, context=self._trusted)

    def get(self, path: str) -> tuple[int, str]:
        """Return status and text of a path; the status is 0 without a response."""
        connection = self.connect()
        try:
            connection.request("GET", path)
            reply = connection.getresponse()
            return reply.status, reply.read().decode()
        except (OSError, http.client.HTTPException):
            return 0, ""
        finally:
            connection.close()

    def chat(self, connection: http.client.HTTPConnection, *, stream: bool = False, tokens: int = 8) -> str:
        """Return why a request failed; empty if it was answered."""
        said = [{"role": "user", "content": "Go on."}]
        body = json.dumps({"model": "assistant", "max_tokens": tokens, "stream": stream, "messages": said})
        headers = {"authorization": f"Bearer {self.key}", "content-type": "application/json"}
        try:
            connection.request("POST", "/v1/chat/completions", body, headers)
            reply = connection.getresponse()
            data = reply.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            return repr(error)
        return "" if reply.status == 200 and (not stream or b"[DONE]" in data) else f"{reply.status} {data[-200:]!r}"

    def ask(self) -> str:
        """Return why a request over a new connection failed; empty if it was answered."""
        connection = self.connect()
        try:
            return self.chat(connection)
        finally:
            connection.close()


class Load(ClientThreads):
    """Clients with plain and streamed requests, half over kept connections, half over a new one for each."""

    def __init__(self, client: GatewayClient, count: int = 6) -> None:
        super().__init__(count)
        self.done = 0
        self._client = client

    def _ask(self, number: int) -> None:
        kept, stream = number % 2 == 0, number % 3 == 0
        connection = self._client.connect()
        while not self._stop.is_set():
            if failure := self._client.chat(connection, stream=stream):
                self.failed.append(failure)
            self.done += 1
            if not kept:
                connection.close()
        connection.close()
