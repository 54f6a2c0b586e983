"""The loader of weights: only files with the stated SHA-256 reach the volume, and engines wait for them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from archwright.engines.weight_files import check_weights, load_weights, main
from archwright.errors import MissingError
from archwright.journal import Journal
from archwright.settings import HubAccess

from ..tools.hub_server import HubServer

CONTENT = b"weights " * 1000
FILE = "model.safetensors"
NO_HUB = HubAccess("http://127.0.0.1:9", token="")


def write_list(**changes: object) -> bytes:
    files = {FILE: hashlib.sha256(CONTENT).hexdigest()}
    one = {"folder": "model", "model": "m", "repository": "a/b", "revision": "", "files": files, **changes}
    return json.dumps([one]).encode()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub with one repository."""
    folder = tmp_path / "hub" / "a" / "b"
    folder.mkdir(parents=True)
    (folder / FILE).write_bytes(CONTENT)
    monkeypatch.setattr("huggingface_hub.file_download.time", SimpleNamespace(sleep=lambda seconds: None))
    with HubServer(tmp_path / "hub") as server:
        yield server


def access(hub: HubServer) -> HubAccess:
    return HubAccess(hub.url, token="")


def list_downloads(hub: HubServer) -> list[int]:
    """The first byte of each download; the hub redirects to the host of the contents."""
    return [one.begins for one in hub.heard if one.path.startswith("/cdn/")]


@pytest.mark.enable_socket
def test_files_are_loaded_once_and_then_checked(tmp_path: Path, hub: HubServer) -> None:
    text, target = write_list(), tmp_path / "volume"
    with pytest.raises(MissingError, match="no verified files"):
        check_weights(text, target)
    for _ in range(2):
        load_weights(text, target, access(hub), Journal("weights"))
    check_weights(text, target)
    path = target / "model" / FILE
    assert path.read_bytes() == CONTENT and path.stat().st_mode & 0o777 == 0o644
    assert list_downloads(hub) == [0]
    path.write_bytes(b"damaged")
    load_weights(text, target, access(hub), Journal("weights"))
    assert path.read_bytes() == CONTENT
    with pytest.raises(MissingError, match="no verified files"):
        check_weights(write_list(revision="v2"), target)


def make_volume(folder: Path, text: bytes) -> Path:
    """Load a list without a hub, from files that somebody copied."""
    (folder / "model").mkdir(parents=True)
    (folder / "model" / FILE).write_bytes(CONTENT)
    load_weights(text, folder, NO_HUB, Journal("weights"))
    return folder / "model" / FILE


def test_a_new_list_links_the_files_of_an_earlier_list(tmp_path: Path) -> None:
    """With an adapter in the list, the weights of the base take no second place, and no hub is asked for them."""
    first = make_volume(tmp_path / "first", write_list(repository=""))
    adapter = {"folder": "adapter-tone", "model": "tone", "repository": "", "revision": ""}
    added = {**adapter, "files": {"adapter_config.json": hashlib.sha256(b"{}").hexdigest()}}
    text = json.dumps([*json.loads(write_list()), added]).encode()
    (tmp_path / "second/adapter-tone").mkdir(parents=True)
    (tmp_path / "second/adapter-tone/adapter_config.json").write_bytes(b"{}")
    load_weights(text, tmp_path / "second", NO_HUB, Journal("weights"))
    second = tmp_path / "second/model" / FILE
    assert second.samefile(first) and second.stat().st_nlink == 2
    check_weights(text, tmp_path / "second")
    first.unlink()
    assert second.read_bytes() == CONTENT


def test_a_file_with_another_digest_is_not_linked(tmp_path: Path) -> None:
    first = make_volume(tmp_path / "first", write_list(repository=""))
    first.write_bytes(b"damaged")
    with pytest.raises(MissingError, match="has no repository"):
        load_weights(write_list(repository=""), tmp_path / "second", NO_HUB, Journal("weights"))
    assert not (tmp_path / "second").exists() and first.read_bytes() == b"damaged"


def test_a_file_is_copied_where_the_file_system_has_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no links")

    first = make_volume(tmp_path / "first", write_list(repository=""))
    monkeypatch.setattr("os.link", refuse)
    load_weights(write_list(repository=""), tmp_path / "second", NO_HUB, Journal("weights"))
    second = tmp_path / "second/model" / FILE
    assert second.read_bytes() == CONTENT and not second.samefile(first)
    assert second.stat().st_mode & 0o777 == 0o644


@pytest.mark.enable_socket
def test_a_download_that_ended_early_continues(tmp_path: Path, hub: HubServer) -> None:
    folder = tmp_path / "volume" / "model"
    folder.mkdir(parents=True)
    (folder / f"{FILE}.part").write_bytes(CONTENT[:5000])
    load_weights(write_list(), tmp_path / "volume", access(hub), Journal("weights"))
    assert (folder / FILE).read_bytes() == CONTENT
    assert list_downloads(hub) == [5000]


@pytest.mark.enable_socket
def test_another_digest_is_refused_before_the_download(tmp_path: Path, hub: HubServer) -> None:
    text = write_list(files={FILE: "0" * 64})
    with pytest.raises(MissingError, match=r"pins.json says 0000") as caught:
        load_weights(text, tmp_path / "volume", access(hub), Journal("weights"))
    assert caught.value.code == "AW-GET-04"
    assert not hub.downloaded() and not [path for path in (tmp_path / "volume").rglob("*") if path.is_file()]
    with pytest.raises(MissingError, match="has no file other"):
        load_weights(write_list(files={"other": "0" * 64}), tmp_path / "volume", access(hub), Journal("weights"))


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"files": {}}, "have no SHA-256"),
        ({"files": {"../x": "0" * 64}}, "leaves its folder"),
        ({"files": {"/x": "0" * 64}}, "leaves its folder"),
        ({"repository": ""}, "has no repository"),
    ],
)
def test_a_list_that_cannot_be_loaded_is_refused(changes: dict[str, object], word: str, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=word):
        load_weights(write_list(**changes), tmp_path, NO_HUB, Journal("weights"))


def test_files_that_somebody_copied_are_verified_without_a_hub(tmp_path: Path) -> None:
    text = write_list(repository="")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(CONTENT)
    load_weights(text, tmp_path, NO_HUB, Journal("weights"))
    check_weights(text, tmp_path)


@pytest.mark.enable_socket
def test_a_hub_that_does_not_answer_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="cannot be fetched") as caught:
        load_weights(write_list(), tmp_path, NO_HUB, Journal("weights"))
    assert caught.value.code == "AW-GET-03"


def test_the_program_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "weights.json").write_bytes(write_list())
    assert main(["check", str(tmp_path / "weights.json"), str(tmp_path)]) == 5
    assert "AW-GET-13" in capsys.readouterr().err
    assert main(["copy"]) == 2
