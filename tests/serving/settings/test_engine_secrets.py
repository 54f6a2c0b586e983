"""Keys by reference: errors show the reference and never the key; a changed file is reloaded."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from tests.async_tests import run_async
from tests.serving.fake_provider import Script, standing_in
from tests.tools.checks import WAIT_S, until

from archwright.errors import OperateError
from archwright.home import Home
from archwright.serving.routing.pool_registry import PoolRegistry
from archwright.serving.settings.engine_secrets import read_secret, read_stamp, read_store_url

from ..conftest import endpoint

if TYPE_CHECKING:
    from ..conftest import Start


def write_key(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o600)


def sent_key(fleet: PoolRegistry) -> bytes:
    (served,) = fleet.pools.values()
    return served.replicas[0].client._encode_request("GET", "/models")


def test_a_variable_and_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VENDOR_KEY", " sk-variable\n")
    write_key(tmp_path / "key", "sk-file\n")
    assert read_secret("env:VENDOR_KEY") == "sk-variable"
    assert read_secret(f"file:{tmp_path}/key") == "sk-file"
    assert read_secret("") is None
    assert read_stamp("env:VENDOR_KEY") is None and read_stamp(f"file:{tmp_path}/none") is None


@pytest.mark.parametrize("content", ["", " \n", "sk-\x00x", "two\nlines"])
def test_what_is_missing_is_reported_by_its_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.delenv("VENDOR_KEY", raising=False)
    write_key(tmp_path / "key", content)
    for reference in ("env:VENDOR_KEY", f"file:{tmp_path}/key", f"file:{tmp_path}/none", f"file:{tmp_path}"):
        with pytest.raises(OperateError) as caught:
            PoolRegistry((endpoint(key=reference).pool,), Home(tmp_path / "home"))
        assert caught.value.code == "AW-OPS-15" and reference in caught.value.lines()
        assert "sk-" not in caught.value.lines() and "two" not in caught.value.lines()


@run_async
async def test_a_key_that_is_rotated_is_used_from_then_on(tmp_path: Path) -> None:
    file = tmp_path / "key"
    write_key(file, "sk-old")
    spec = endpoint(key=f"file:{file}", health_path="").pool
    fleet = PoolRegistry((spec,), Home(tmp_path / "home"))
    assert b"Bearer sk-old\r\n" in sent_key(fleet)
    await fleet.refresh_keys()
    write_key(file, "sk-new")
    await fleet.refresh_keys()
    assert b"Bearer sk-new\r\n" in sent_key(fleet) and b"sk-old" not in sent_key(fleet)
    file.unlink()
    with pytest.raises(OperateError) as caught:
        await fleet.refresh_keys()
    assert caught.value.code == "AW-OPS-15"
    assert b"Bearer sk-new\r\n" in sent_key(fleet), "the key in use stays in use"
    write_key(file, "sk-newest")
    await fleet.refresh_keys()
    assert b"Bearer sk-newest\r\n" in sent_key(fleet)
    await fleet.close()


@pytest.mark.enable_socket
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("protocol", ["openai", "anthropic"])
def test_our_key_is_removed_from_an_engines_error(start: Start, tmp_path: Path, stream: bool, protocol: str) -> None:
    key = "sk-of-the-house-0123456789"
    write_key(tmp_path / "key", key)
    error = {"type": "error", "error": {"type": "invalid_request_error", "code": 400, "message": f"no such key: {key}"}}
    refused = Script([json.dumps(error).encode()], 400, "application/json")
    broken = Script([f"event: error\ndata: {json.dumps(error)}\n\n".encode()])
    with standing_in() as place:
        spec = {"addresses": (place.url,), "key": f"file:{tmp_path}/key", "health_path": "", "protocol": protocol}
        platform = start([spec], [])
        for place.script in (refused, broken):
            reply = platform.chat(stream=stream)
            assert key in str(place.last.headers), "it was sent"
            assert b"sk-of" not in reply.body and b"no such key" in reply.body


def test_the_database_url_may_stand_in_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORE", "postgresql+psycopg://gateway:s3cret@db/archwright")
    assert read_store_url("env:STORE") == "postgresql+psycopg://gateway:s3cret@db/archwright"
    assert read_store_url("sqlite:///x") == "sqlite:///x" and read_store_url("") == ""
    monkeypatch.delenv("STORE")
    with pytest.raises(OperateError) as caught:
        read_store_url("env:STORE")
    assert caught.value.code == "AW-OPS-15" and "env:STORE" in caught.value.lines()


def command(*words: str, every_s: int = 900) -> str:
    return f"command:{every_s}:{json.dumps(words)}"


@pytest.mark.process
def test_a_key_is_the_output_of_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VENDOR_KEY", "sk-of-program")
    assert read_secret(command("printenv", "VENDOR_KEY")) == "sk-of-program"
    assert read_secret('command:["echo", "$VENDOR_KEY"]') == "$VENDOR_KEY", "no shell reads the words"
    endless = f"sleep {5 * WAIT_S} & echo $! > {tmp_path}/child; echo sk-secret; wait"
    for words, timeout_s, says in (
        (("sh", "-c", "echo sk-secret; exit 3"), WAIT_S, "status 3"),
        (("sh", "-c", endless), 1.0, "1 s"),
        (("/no/such/program", "sk-secret"), WAIT_S, "cannot be read"),
        (("true",), WAIT_S, "does not contain"),
    ):
        monkeypatch.setattr("archwright.serving.settings.engine_secrets.COMMAND_TIMEOUT_S", timeout_s)
        with pytest.raises(OperateError, match=says) as caught:
            read_secret(command(*words))
        assert caught.value.code == "AW-OPS-15" and "sk-secret" not in caught.value.lines()
    child = Path("/proc", (tmp_path / "child").read_text().strip(), "stat")
    until(lambda: not child.exists() or child.read_text().rpartition(") ")[2][0] in "ZX")


@pytest.mark.process
@run_async
async def test_a_command_runs_again_when_due_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    for module in ("serving.settings.engine_secrets", "serving.routing.pool_registry"):
        # The clock of the modules only: the event loop needs its own.
        monkeypatch.setattr(f"archwright.{module}.time", SimpleNamespace(monotonic=lambda: now))
    script = tmp_path / "token"
    script.write_text(f"echo x >> {tmp_path}/runs; printf token-; wc -l < {tmp_path}/runs")
    spec = endpoint(key=command("sh", str(script), every_s=100), health_path="").pool
    fleet = PoolRegistry((spec,), Home(tmp_path / "home"))
    (pool,) = fleet.pools.values()
    for after_s, refused, sent in (
        (50, False, "1"),
        (60, False, "2"),
        (1, True, "2"),
        (10, True, "3"),
        (1, False, "3"),
    ):
        now += after_s
        pool.replicas[0].key_refused |= refused
        await fleet.refresh_keys()
        assert f"Bearer token-{sent}\r\n".encode() in sent_key(fleet)
    await fleet.close()
