"""Time stamps by `openssl ts` as the authority, behind a small HTTP server."""

from __future__ import annotations

import base64
import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from tests.deploy import tools

from archwright.access.audit_delivery.time_stamps import STAMPS_FILE
from archwright.api import audit
from archwright.errors import ArchwrightError, StoreError
from archwright.home import Home
from archwright.store import Store

from .log_with_places import write_events

pytestmark = [pytest.mark.nightly, pytest.mark.enable_socket]
CONFIGURATION = """
[req]
distinguished_name = name
[name]
[root]
basicConstraints = critical, CA:true
[stamp]
extendedKeyUsage = critical, timeStamping
keyUsage = critical, digitalSignature
[tsa]
default_tsa = authority
[authority]
serial = serial
signer_cert = signer.pem
signer_key = signer.key
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256
ordering = yes
tsa_name = yes
ess_cert_id_alg = sha256
"""


class Authority:
    """A root, a signer that it certified, and the answers of the signer."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        self.roots = folder / "root.pem"
        self.url = ""
        self.change: Callable[[bytes], bytes] = lambda answer: answer
        self.status = 200
        (folder / "tsa.cnf").write_text(CONFIGURATION)
        (folder / "serial").write_text("01\n")
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-config", "tsa.cnf"]
        self._run(
            "req",
            "-x509",
            "-extensions",
            "root",
            *key,
            "-keyout",
            "root.key",
            "-out",
            "root.pem",
            "-days",
            "3",
            "-subj",
            "/CN=Root",
        )
        self._run("req", *key, "-keyout", "signer.key", "-out", "signer.csr", "-subj", "/CN=Stamps")
        extensions = ["-extfile", "tsa.cnf", "-extensions", "stamp", "-days", "2"]
        signer = ["-CA", "root.pem", "-CAkey", "root.key", "-CAcreateserial"]
        self._run("x509", "-req", "-in", "signer.csr", *signer, *extensions, "-out", "signer.pem")

    def _run(self, *arguments: str) -> None:
        command = [str(tools.require_program("openssl")), *arguments]
        subprocess.run(command, cwd=self._folder, check=True, capture_output=True)

    def answer(self, query: bytes) -> bytes:
        (self._folder / "query").write_bytes(query)
        self._run("ts", "-reply", "-config", "tsa.cnf", "-queryfile", "query", "-out", "answer")
        return self.change((self._folder / "answer").read_bytes())


@pytest.fixture
def authority(tmp_path: Path, processes: None) -> Iterator[Authority]:
    signer = Authority(tmp_path / "authority")

    class Server(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.headers["Content-Type"] == "application/timestamp-query"
            answer = signer.answer(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(signer.status)
            self.send_header("Content-Type", "application/timestamp-reply")
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_arguments: object) -> None:
            """Write nothing to standard error."""

    with HTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        signer.url = f"http://127.0.0.1:{server.server_port}/"
        yield signer
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def log(home: Home, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("ARCHWRIGHT_AUDIT_SECOND_PLACE", "none")
    with closing(Store(home.store_url)) as store:
        write_events(store, home, range(6))
    return home


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(ArchwrightError) as refused:
        call()
    return refused.value.code


def test_a_checkpoint_is_stamped_and_its_stamp_verified(log: Home, authority: Authority) -> None:
    roots = str(authority.roots)
    for covered in (7, 8):
        assert audit.stamp(authority.url, authorities=roots).records == covered
    verified = audit.verify(authorities=roots)
    assert (verified.time_stamps, verified.records) == ("2 verified, up to record 8", 8)
    assert audit.verify().time_stamps == "2 not verified: pass --authorities FILE"
    exported = audit.export(output=str(log.root / "export"))
    assert exported.time_stamps == 2


def test_an_auditor_verifies_a_stamp_of_an_export_with_openssl(log: Home, authority: Authority, tmp_path: Path) -> None:
    audit.stamp(authority.url, authorities=str(authority.roots))
    path = tmp_path / "export"
    audit.export(output=str(path))
    stamp = json.loads(path.read_bytes().splitlines()[-1])
    (tmp_path / "answer.tsr").write_bytes(base64.b64decode(stamp["answer"]))
    openssl = str(tools.require_program("openssl"))
    command = [openssl, "ts", "-verify", "-digest", stamp["checkpoint"], "-in", "answer.tsr", "-CAfile"]
    run = subprocess.run([*command, str(authority.roots)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0 and "Verification: OK" in run.stdout


def test_a_stamp_shows_that_checkpoints_were_removed(log: Home, authority: Authority) -> None:
    audit.stamp(authority.url, authorities=str(authority.roots))
    stamps = log.root / "audit" / STAMPS_FILE
    line = json.loads(stamps.read_text())
    line["checkpoint"] = "0" * 64
    stamps.write_text(json.dumps(line))
    assert code_of(lambda: audit.verify(authorities=str(authority.roots))) == "AW-STO-32", "the digest was altered"

    stamps.unlink()
    with closing(Store(log.store_url)) as store:
        write_events(store, log, range(6, 8))
    audit.stamp(authority.url, authorities=str(authority.roots))
    lines = log.audit_checkpoints.read_bytes().splitlines(keepends=True)
    assert audit.verify(authorities=str(authority.roots)).time_stamps == "1 verified, up to record 10"
    other = Home(log.root.parent / "other")
    with closing(Store(other.store_url)) as store:
        write_events(store, other, range(2))
    log.audit_checkpoints.write_bytes(b"".join(lines[:-1]))
    assert code_of(lambda: audit.verify(authorities=str(authority.roots))) in ("AW-STO-22", "AW-STO-33")


def test_the_time_of_a_checkpoint_behind_its_stamp_is_found(
    log: Home, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 3600)
    audit.stamp(authority.url, authorities=str(authority.roots))
    with pytest.raises(StoreError) as found:
        audit.verify(authorities=str(authority.roots))
    assert found.value.code == "AW-STO-33" and "the clock was wrong" in found.value.message


def test_an_answer_that_is_not_valid_is_refused_and_not_kept(log: Home, authority: Authority, tmp_path: Path) -> None:
    roots = str(authority.roots)
    old_query: list[bytes] = []

    def replay(answer: bytes) -> bytes:
        old_query.append(answer)
        return old_query[0]

    authority.change = replay
    audit.stamp(authority.url, authorities=roots)
    assert code_of(lambda: audit.stamp(authority.url, authorities=roots)) == "AW-STO-32", "an answer to another query"
    authority.change = lambda answer: answer[:-5] + bytes(5)
    assert code_of(lambda: audit.stamp(authority.url, authorities=roots)) == "AW-STO-32", "a false signature"
    authority.change = lambda answer: b"no stamp"
    assert code_of(lambda: audit.stamp(authority.url, authorities=roots)) == "AW-STO-32"
    authority.status = 503
    assert code_of(lambda: audit.stamp(authority.url, authorities=roots)) == "AW-STO-32"
    assert len((log.root / "audit" / STAMPS_FILE).read_bytes().splitlines()) == 1
    foreign = Authority(tmp_path / "foreign")
    assert code_of(lambda: audit.verify(authorities=str(foreign.roots))) == "AW-STO-32", "another root"
