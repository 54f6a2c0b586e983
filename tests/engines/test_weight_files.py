"""The loader of weights: only files with the stated SHA-256 reach the volume, and engines wait for them."""

from __future__ import annotations

import hashlib
import io
import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from archwright.engines.weight_files import check_weights, load_weights, main
from archwright.errors import MissingError
from archwright.journal import Journal
from archwright.settings import HubAccess

CONTENT = b"weights " * 1000
HUB = HubAccess("https://hub.test", token="hf_secret")


def write_list(**changes: object) -> bytes:
    files = {"model.safetensors": hashlib.sha256(CONTENT).hexdigest()}
    one = {"folder": "model", "model": "m", "repository": "a/b", "revision": "v1", "files": files, **changes}
    return json.dumps([one]).encode()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[urllib.request.Request]:
    """Requests to the hub, which answers with CONTENT."""
    requests: list[urllib.request.Request] = []

    def answer(request: urllib.request.Request, timeout: float) -> Any:
        requests.append(request)
        return io.BytesIO(CONTENT)

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    return requests


def test_files_are_loaded_once_and_then_checked(tmp_path: Path, asked: list[urllib.request.Request]) -> None:
    text = write_list()
    with pytest.raises(MissingError, match="no verified files"):
        check_weights(text, tmp_path)
    load_weights(text, tmp_path, HUB, Journal("weights"))
    check_weights(text, tmp_path)
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == CONTENT
    assert [one.full_url for one in asked] == ["https://hub.test/a/b/resolve/v1/model.safetensors"]
    # urllib does not send such a header to the host that the hub redirects to.
    assert asked[0].unredirected_hdrs["Authorization"] == "Bearer hf_secret"
    assert not asked[0].headers
    load_weights(text, tmp_path, HUB, Journal("weights"))
    assert len(asked) == 1
    (tmp_path / "model" / "model.safetensors").write_bytes(b"damaged")
    load_weights(text, tmp_path, HUB, Journal("weights"))
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == CONTENT
    with pytest.raises(MissingError, match="no verified files"):
        check_weights(write_list(revision="v2"), tmp_path)


def test_another_digest_is_refused_and_nothing_stays(tmp_path: Path, asked: list[urllib.request.Request]) -> None:
    text = write_list(files={"model.safetensors": "0" * 64})
    with pytest.raises(MissingError, match=r"pins.json says 0000") as caught:
        load_weights(text, tmp_path, HUB, Journal("weights"))
    assert caught.value.code == "AW-GET-04"
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


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
        load_weights(write_list(**changes), tmp_path, HUB, Journal("weights"))


def test_files_that_somebody_copied_are_verified_without_a_hub(tmp_path: Path) -> None:
    text = write_list(repository="")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(CONTENT)
    load_weights(text, tmp_path, HUB, Journal("weights"))
    check_weights(text, tmp_path)


def test_a_hub_that_does_not_answer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(request: urllib.request.Request, timeout: float) -> Any:
        raise OSError("no route")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with pytest.raises(MissingError, match="cannot be fetched: no route"):
        load_weights(write_list(), tmp_path, HUB, Journal("weights"))


def test_the_program_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "weights.json").write_bytes(write_list())
    assert main(["check", str(tmp_path / "weights.json"), str(tmp_path)]) == 5
    assert "AW-GET-13" in capsys.readouterr().err
    assert main(["copy"]) == 2
