"""Endpoints that cannot be measured: each fault has its code, three lines, no secret, and no long wait."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest

from archwright.contract.plan import LoadSpec
from archwright.contract.record import replace
from archwright.errors import ReconcileError
from archwright.reconcile.bench import BenchTarget, BenchTimeouts, drive_load, run_bench
from archwright.reconcile.bench_client import normalise_base_url

from ..command_line import error_of
from .conftest import KEY, QUICK, Endpoint, Serve, bench
from .fake_endpoint import Handler

pytestmark = pytest.mark.enable_socket


def refusal(url: str, load: LoadSpec, **target: Any) -> ReconcileError:
    with pytest.raises(ReconcileError) as caught:
        bench(url, load, **target)
    error = caught.value
    assert KEY not in error.lines()
    assert 2 <= len(error.lines().splitlines()) <= 3
    assert error.hint
    return error


ECHO = json.dumps({"error": {"message": f"bad key {KEY}", "type": "x", "code": f"no {KEY}"}})
NO_MODEL = json.dumps({"error": {"message": "no", "code": "model_not_found"}})


@pytest.mark.parametrize(
    ("fault", "code", "says"),
    [
        (Endpoint.replying(401, ECHO), "AW-REC-12", "401"),
        (Endpoint.replying(403, "no", "text/plain"), "AW-REC-12", "403"),
        (Endpoint.replying(404, "<html>", "text/html"), "AW-REC-13", "small"),
        (Endpoint.replying(400, NO_MODEL), "AW-REC-13", "small"),
        (Endpoint.replying(400, ECHO), "AW-REC-18", "400 (x)"),
        (Endpoint.replying(422, "[]"), "AW-REC-18", "422"),
        (Endpoint.replying(500, "<html>oops", "text/html"), "AW-REC-18", "500"),
        (Endpoint.replying(500, '{"error": "text"}'), "AW-REC-18", "500"),
        (Endpoint.replying(307, "", Location="http://elsewhere.example/"), "AW-REC-14", "redirects"),
        (Endpoint.replying(200, "<html>hello", "text/html"), "AW-REC-15", "text/html"),
        (Endpoint.replying(200, '{"choices": []}'), "AW-REC-15", "application/json"),
        (Endpoint.saying(b"data: <html>\n\n"), "AW-REC-15", "does not follow the OpenAI format"),
        (Endpoint.saying(b'data: {"choices": 5}\n\n'), "AW-REC-15", "does not follow the OpenAI format"),
        (Endpoint.saying(b"data: " + b"x" * 5_000_000), "AW-REC-15", "no end"),
        (Endpoint.saying(b'data: {"error": {"message": "overloaded"}}\n\n'), "AW-REC-17", "error inside the stream"),
        (Endpoint.saying(b'data: {"choices": []}\n\n'), "AW-REC-17", "ended before"),
        (Endpoint.saying(), "AW-REC-17", "ended before"),
        (Endpoint.hanging, "AW-REC-16", "no response for 0.4 s"),
        (Endpoint.chattering, "AW-REC-16", "no complete response"),
        (Endpoint.stalling, "AW-REC-16", "the response stopped for 0.4 s"),
        (Endpoint.dying, "AW-REC-17", "during the response"),
        (Endpoint.slamming, "AW-REC-17", "before the response"),
    ],
)
def test_an_endpoint_that_cannot_be_measured_is_reported_at_the_first_probe(
    serve: Serve,
    load: LoadSpec,
    fault: Handler,
    code: str,
    says: str,
) -> None:
    error = refusal(serve(Endpoint(fault=fault, faulty=lambda _: True)), load)
    assert (error.code, says in error.message) == (code, True), error.message


def test_nothing_listens_or_the_host_does_not_exist(load: LoadSpec) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    error = refusal(f"http://127.0.0.1:{port}/v1", load)
    assert error.code == "AW-REC-10" and "refused" in error.message and str(port) in str(error.where.file)
    assert refusal("http://no-such-host.invalid/v1", load).code == "AW-REC-10"


def test_a_host_that_never_completes_a_connection(load: LoadSpec) -> None:
    """A listener whose backlog is full drops the handshake, as a firewall does."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
            fillers.append(filler)
        limits = BenchTimeouts(connect_s=0.3, idle_s=5.0)
        error = error_of("AW-REC-10", bench, f"http://127.0.0.1:{port}/v1", load, limits)
        for filler in fillers:
            filler.close()
    assert "no connection within 0.3 s" in error.message


def test_a_port_that_speaks_something_else(load: LoadSpec, serve: Serve) -> None:
    async def scenario() -> str:
        async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readline()
            writer.write(b"220 mail.example ESMTP\r\n\r\n")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(greet, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server:
            with pytest.raises(ReconcileError) as caught:
                await drive_load(BenchTarget(f"http://127.0.0.1:{port}/v1", None, "m"), load, limits=QUICK)
        return caught.value.code

    assert asyncio.run(scenario()) == "AW-REC-15"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate of 127.0.0.1, its key in the same file."""
    folder = tmp_path_factory.mktemp("tls")
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=loopback "
        "-addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out cert.pem"
    )
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    (folder / "both.pem").write_bytes((folder / "key.pem").read_bytes() + (folder / "cert.pem").read_bytes())
    return folder / "both.pem"


def test_tls_is_verified_unless_told_otherwise(serve: Serve, load: LoadSpec, certificate: Path, tmp_path: Path) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    secure = serve(Endpoint(), tls=context)
    short = replace(load, peak_s=0.2, closed_s=0.2)
    assert refusal(secure, short).code == "AW-REC-11"
    assert refusal(secure.replace("127.0.0.1", "localhost"), short, ca_file=str(certificate)).code == "AW-REC-11"
    assert not any("TLS" in note or "verified" in note for note in bench(secure, short, ca_file=str(certificate)).notes)
    assert any("not verified" in note for note in bench(secure, short, verify_tls=False).notes)
    assert refusal(serve(Endpoint()).replace("http:", "https:"), short).code == "AW-REC-11"
    absent = refusal(secure, short, ca_file=str(tmp_path / "absent.pem"))
    assert (absent.code, absent.where.file) == ("AW-REC-11", str(tmp_path / "absent.pem"))


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("http://h:8000/v1", "http://h:8000/v1"),
        ("https://h/v1/", "https://h/v1"),
        (" http://h:1 ", "http://h:1/v1"),
        ("https://h/v1beta/openai", "https://h/v1beta/openai"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1"),
    ],
)
def test_addresses(given: str, used: str) -> None:
    assert normalise_base_url(given) == used


@pytest.mark.parametrize(
    "url",
    [
        "",
        "h:80",
        "ftp://h/v1",
        "http:///v1",
        "http://u:pw@h/v1",
        "http://h/v1?key=pw",
        "http://h:99999/",
        "http://[/",
        "http://h..h/v1",
    ],
)
def test_addresses_that_cannot_be_used(url: str, load: LoadSpec) -> None:
    error = refusal(url, load)
    assert error.code == "AW-REC-19"
    assert "pw" not in error.lines()


def test_a_key_that_no_header_can_carry(load: LoadSpec) -> None:
    target = BenchTarget("http://127.0.0.1:9/v1", "secret\nkey", "m")
    assert "secret" not in error_of("AW-REC-19", run_bench, target, load).lines()
