"""Keys by reference: said by name when missing, never by value, and followed when their file changes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from archwright.errors import OperateError
from archwright.home import Home
from archwright.serving.fleet import Fleet
from archwright.serving.secrets import secret, stamp

from .conftest import endpoint


def sent_key(fleet: Fleet) -> bytes:
    (served,) = fleet.pools.values()
    return served.replicas[0].client._message("GET", "/models")


def test_a_variable_and_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VENDOR_KEY", " sk-variable\n")
    (tmp_path / "key").write_text("sk-file\n")
    assert secret("env:VENDOR_KEY") == "sk-variable"
    assert secret(f"file:{tmp_path}/key") == "sk-file"
    assert secret("") is None
    assert stamp("env:VENDOR_KEY") is None and stamp(f"file:{tmp_path}/none") is None


@pytest.mark.parametrize("content", ["", " \n", "sk-\x00x", "two\nlines"])
def test_what_is_missing_is_said_by_its_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.delenv("VENDOR_KEY", raising=False)
    (tmp_path / "key").write_text(content)
    for reference in ("env:VENDOR_KEY", f"file:{tmp_path}/key", f"file:{tmp_path}/none", f"file:{tmp_path}"):
        with pytest.raises(OperateError) as caught:
            Fleet((endpoint(key=reference).pool,), Home(tmp_path / "home"))
        assert caught.value.code == "AW-OPS-15" and reference in caught.value.lines()
        assert "sk-" not in caught.value.lines() and "two" not in caught.value.lines()


def test_a_key_that_is_rotated_is_used_from_then_on(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("sk-old")

    async def scenario() -> None:
        spec = endpoint(key=f"file:{file}", health_path="").pool
        fleet = Fleet((spec,), Home(tmp_path / "home"))
        assert b"Bearer sk-old\r\n" in sent_key(fleet)
        await fleet.check()
        file.write_text("sk-new")
        await fleet.check()
        assert b"Bearer sk-new\r\n" in sent_key(fleet) and b"sk-old" not in sent_key(fleet)
        file.unlink()
        with pytest.raises(OperateError) as caught:
            await fleet.check()
        assert caught.value.code == "AW-OPS-15"
        assert b"Bearer sk-new\r\n" in sent_key(fleet), "what is in use stays in use"
        file.write_text("sk-newest")
        await fleet.check()
        assert b"Bearer sk-newest\r\n" in sent_key(fleet)
        await fleet.close()

    asyncio.run(scenario())
