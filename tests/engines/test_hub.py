"""Fetching models of the hub: the real client against a server with the hub's HTTP, and with its faults."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from archwright.contract.record import replace
from archwright.contract.stored_model import StoredModel
from archwright.engines import model_store
from archwright.engines.hub import HubReference, parse_reference
from archwright.engines.hub_files import find_quantisation
from archwright.engines.model_store import KnownModel, StoreOptions, fetch_reference, list_stored_models
from archwright.home import Home
from archwright.journal import listen_to_steps
from archwright.settings import child_environment

from ..tools.checks import refuses, until
from ..tools.hub_server import Fault, HubServer, Repository
from ..tools.plain_gguf import write_gguf
from . import onnx_models
from .test_model_header import write_folder

REPOSITORY = "Tiny/Tiny-GGUF"
REFERENCE = f"hf:{REPOSITORY}"
FILE = "tiny-Q4_K_M.gguf"
PAGE = Fault(web_page=True)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Repositories: one with quantisations, one with a split model, an embedder, weights for a GPU, and a pickle."""
    root = tmp_path_factory.mktemp("hub")
    folder = root / REPOSITORY
    folder.mkdir(parents=True)
    write_gguf(folder / FILE, keys={"general.file_type": 15, "general.name": "Tiny 1"})
    write_gguf(folder / "tiny-Q8_0.gguf", keys={"general.file_type": 7, "general.license": "mit"})
    write_gguf(folder / "mmproj-tiny-F16.gguf", "clip")
    split = root / "Tiny/Split-GGUF"
    split.mkdir()
    for part in (1, 2):
        write_gguf(split / f"big-Q4_K_M-0000{part}-of-00002.gguf", keys={"split.count": 2})
    shutil.copy(folder / FILE, split / "big-Q2_K.gguf")
    write_folder(
        root / "Tiny/Weights", tokenizer_config_json="{}", modeling_py="import os", generation_config_json="{}"
    )
    embedder = write_folder(root / "Tiny/Embedder", {"architectures": ["BertModel"]}, tokenizer_json="{}")
    (embedder / "1_Pooling").mkdir()
    (embedder / "1_Pooling/config.json").write_text("{}")
    (embedder / "onnx").mkdir()
    (embedder / "onnx/model.onnx").write_bytes(onnx_models.model(None).SerializeToString())
    (root / "Tiny/Limited").mkdir()
    write_gguf(root / "Tiny/Limited/m-Q4_1.gguf", keys={"general.file_type": 3})
    (root / "Tiny/Pickled").mkdir()
    (root / "Tiny/Pickled/pytorch_model.bin").write_bytes(b"\x80\2")
    return root


@pytest.fixture
def server(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer(root) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr("huggingface_hub.file_download.time", SimpleNamespace(sleep=lambda seconds: None))
        yield server


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def fetch(reference: str, home: Home, options: StoreOptions | None = None) -> StoredModel:
    return fetch_reference(reference, home, options).stored


def raise_full(_file: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def names_of(home: Home) -> list[str]:
    """The files in the folder of the models, without digests."""
    return sorted(path.name.rpartition(".")[2] for path in home.stored_models.iterdir())


def refuses_fetch(code: str, match: str, home: Home, reference: str = REFERENCE, left: list[str] | None = None) -> str:
    """The error of the fetch; no model is left, and at most a partial file. Returns the hint."""
    with refuses(code, match) as caught:
        fetch(reference, home)
    assert list_stored_models(home) == () and (names_of(home) if home.stored_models.exists() else []) == (left or [])
    return caught.value.hint


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("hf:Qwen/Qwen3-4B-GGUF", HubReference("Qwen/Qwen3-4B-GGUF")),
        ("hf:a/b.c:Q8_0", HubReference("a/b.c", "", "Q8_0")),
        ("hf:a/b@refs/pr/1:sub/f-1.gguf", HubReference("a/b", "refs/pr/1", "sub/f-1.gguf")),
    ],
)
def test_a_reference_names_repository_revision_and_choice(text: str, reference: HubReference) -> None:
    assert parse_reference(text) == reference


@pytest.mark.parametrize("text", ["hf:", "hf:a", "hf:a/b/c", "hf:../b", "hf:a/..", "hf:a/b@../c", "hf:a/b --x", "a/b"])
def test_a_text_that_is_no_reference_is_refused(text: str) -> None:
    with refuses("AW-USE-12", hint="write for example hf:Qwen/Qwen3-4B-GGUF or hf:Qwen/Qwen3-4B-GGUF:Q8_0"):
        parse_reference(text)


@pytest.mark.parametrize(
    ("name", "quantisation"),
    [
        ("Qwen3-4B-Q4_K_M.gguf", "Q4_K_M"),
        ("q8/qwen2.5-7b-instruct-q4_k_m-00001-of-00002.gguf", "Q4_K_M"),
        ("Phi-4-mini-instruct.Q8_0.gguf", "Q8_0"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
        ("m-UD-IQ2_XXS.gguf", "UD-IQ2_XXS"),
        ("SmolLM3-f16.gguf", "F16"),
        ("model.gguf", ""),
    ],
)
def test_the_name_of_a_file_says_its_quantisation(name: str, quantisation: str) -> None:
    assert find_quantisation(name) == quantisation


@pytest.mark.enable_socket
def test_a_model_is_fetched_once_at_a_commit_with_its_licence(server: HubServer, home: Home) -> None:
    steps: list[str] = []
    with listen_to_steps(steps.append):
        stored = fetch(REFERENCE, home)
    commit = server.commit(REPOSITORY)
    assert (stored.name, stored.quantisation, stored.licence) == ("tiny-Q4_K_M", "Q4_K_M", "apache-2.0")
    assert (
        stored.source == f"{REFERENCE}@{commit}:{FILE}"
        and stored.sha256 == server.digests(server.root / REPOSITORY / FILE)[0]
    )
    assert home.model(stored.sha256).stat().st_size == stored.size_bytes and names_of(home) == ["gguf", "json"]
    assert any("(apache-2.0)" in step and "MB/s" in step and "s left" in step for step in steps)
    assert {one.authorization for one in server.heard} == {None}
    assert fetch(f"{REFERENCE}:{FILE}", home) == stored == fetch(f"{REFERENCE}@{commit}:q4_k_m", home)
    assert server.downloaded()[FILE] == 2  # the redirect and the file
    assert fetch(f"{REFERENCE}:Q8_0", home).name == "tiny-Q8_0"


@pytest.mark.enable_socket
def test_a_model_of_the_catalog_gets_its_id(server: HubServer, home: Home) -> None:
    known = KnownModel(
        id="Tiny-1",
        repositories=(REPOSITORY,),
        layers=2,
        hidden=64,
        licence="apache-2.0",
        template_tokens=7,
    )
    other = replace(known, id="Large", layers=9)
    stored = fetch(REFERENCE, home, StoreOptions(known=(other, known)))
    assert (stored.name, stored.model, stored.template_tokens) == ("Tiny-1-Q4_K_M", "Tiny-1", 7)
    other = replace(other, id="tiny-Q8_0")  # another model with the name of a file
    stored = fetch(f"{REFERENCE}:Q8_0", home, StoreOptions(known=(other,)))
    assert stored.name == stored.model == f"tiny-Q8_0-{stored.sha256[:8]}"


@pytest.mark.enable_socket
@pytest.mark.parametrize(
    ("reference", "code", "match", "hint"),
    [
        (
            f"{REFERENCE}:Q5_K_M",
            "AW-USE-17",
            "no GGUF file 'Q5_K_M'",
            f"use {REFERENCE}:CHOICE with one of Q4_K_M, Q8_0",
        ),
        ("hf:Tiny/Split-GGUF:Q4_K_M", "AW-USE-17", "one part of a model", "one of Q2_K; or join its parts"),
        ("hf:Tiny/None", "AW-GET-07", "no public Tiny/None", "set HF_TOKEN"),
        (f"{REFERENCE}@v9", "AW-GET-07", "no public", "check the name"),
        ("hf:Tiny/Pickled", "AW-MOD-01", "a pickle", "convert it"),
        ("hf:Tiny/Weights", "AW-MOD-05", "needs a GPU", "convert_hf_to_gguf.py"),
    ],
)
def test_a_wrong_choice_is_refused_before_a_download(
    server: HubServer, home: Home, reference: str, code: str, match: str, hint: str
) -> None:
    assert hint in refuses_fetch(code, match, home, reference)
    assert not server.downloaded()


@pytest.mark.enable_socket
def test_the_nearest_whole_quantisation_is_taken_without_a_choice(server: HubServer, home: Home) -> None:
    assert fetch("hf:Tiny/Split-GGUF", home).source.endswith(":big-Q2_K.gguf")
    assert fetch_reference(REFERENCE, home).choices == ("Q4_K_M", "Q8_0")
    assert fetch_reference(f"{REFERENCE}:Q8_0", home).choices == ()


@pytest.mark.enable_socket
def test_a_licence_against_commercial_use_is_reported_during_the_download(server: HubServer, home: Home) -> None:
    server.repositories["Tiny/Limited"] = Repository(licence="cc-by-nc-4.0")
    steps: list[str] = []
    with listen_to_steps(steps.append):
        fetch("hf:Tiny/Limited", home)
    assert "fetching m-Q4_1.gguf (cc-by-nc-4.0, forbids commercial use): " in "\n".join(steps)


@pytest.mark.enable_socket
@pytest.mark.parametrize(
    ("file", "fault", "code", "match"),
    [
        (FILE, Fault(wrong_bytes=True), "AW-GET-04", "its digest is"),
        (FILE, Fault(endless=True), "AW-GET-04", "sent more than"),
        (FILE, PAGE, "AW-GET-04", "sent a web page"),
        (FILE, Fault(status=404, code="EntryNotFound"), "AW-GET-07", "no public"),
        (FILE, Fault(status=403), "AW-GET-06", "is restricted"),
        (FILE, Fault(status=503), "AW-GET-03", "status 503"),
        ("api", PAGE, "AW-GET-04", "not the list of files of a hub"),
        ("api", Fault(status=500), "AW-GET-03", "status 500"),
        ("api", Fault(status=403, code="GatedRepo"), "AW-GET-06", "is restricted"),
    ],
)
def test_a_wrong_answer_leaves_no_model(
    server: HubServer, home: Home, file: str, fault: Fault, code: str, match: str
) -> None:
    server.faults[file] = fault
    with refuses(code, match) as caught:
        fetch(REFERENCE, home)
    assert ("wait some minutes" in caught.value.hint) == (code == "AW-GET-03")
    assert not home.stored_models.exists() or names_of(home) == []
    server.faults.clear()
    assert fetch(REFERENCE, home).quantisation == "Q4_K_M"


@pytest.mark.enable_socket
@pytest.mark.parametrize("fault", [Fault(cut_after=3 << 18), Fault(short_by=50_000)])
def test_a_broken_download_continues_where_it_ended(server: HubServer, home: Home, fault: Fault) -> None:
    fault.times = 1
    server.faults[FILE] = fault
    if fault.short_by:
        assert "continues the download" in refuses_fetch("AW-GET-03", "ended after", home, left=["part"])
    stored = fetch(REFERENCE, home)
    begins = [one.begins for one in server.heard if one.path.startswith("/cdn/")]
    assert begins == [0, fault.cut_after or stored.size_bytes - 50_000]


@pytest.mark.enable_socket
def test_a_server_that_ignores_ranges_sends_the_file_again(server: HubServer, home: Home) -> None:
    server.faults[FILE] = Fault(short_by=50_000, times=1)
    refuses_fetch("AW-GET-03", "ended after", home, left=["part"])
    server.faults[FILE] = Fault(no_ranges=True)
    assert fetch(REFERENCE, home).quantisation == "Q4_K_M"


def has_part(home: Home) -> bool:
    """True if a part of a file has been written."""
    return any(path.stat().st_size for path in home.stored_models.glob("*.part"))


@pytest.mark.process
@pytest.mark.enable_socket
def test_a_killed_command_continues_and_a_second_one_is_refused(server: HubServer, home: Home) -> None:
    server.faults[FILE] = Fault(bytes_per_s=700_000, times=1)
    command = [sys.executable, "-P", "-m", "archwright", "models", "fetch", REFERENCE]
    environment = child_environment({"ARCHWRIGHT_HOME": str(home.root), "HF_ENDPOINT": server.url})
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as child:
        until(lambda: child.poll() is not None or has_part(home))
        assert child.poll() is None, "the command ended"
        with refuses("AW-GET-08", "another command fetches"):
            fetch(REFERENCE, home)
        child.send_signal(signal.SIGKILL)
    assert names_of(home) == ["part"]
    done = next(home.stored_models.glob("*.part")).stat().st_size
    assert fetch(REFERENCE, home).quantisation == "Q4_K_M" and server.heard[-1].begins == done > 0
    assert not list(home.stored_models.glob("*.part"))


@pytest.mark.enable_socket
def test_an_abandoned_part_is_removed_after_a_day(server: HubServer, home: Home) -> None:
    old = home.folder("models") / ".model-0123.part"
    old.write_bytes(b"x")
    os.utime(old, (0, time.time() - 25 * 3600))
    fetch(REFERENCE, home)
    assert names_of(home) == ["gguf", "json"]


@pytest.mark.enable_socket
def test_a_gated_model_needs_accepted_conditions_and_the_token_stays_at_the_hub(
    server: HubServer, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.repositories[REPOSITORY] = Repository(gated=True, licence="")
    server.tokens.add("hf_good")
    hint = refuses_fetch("AW-GET-06", "conditions accepted first", home)
    assert f"{server.url}/{REPOSITORY}" in hint and "HF_TOKEN" in hint
    monkeypatch.setenv("HF_TOKEN", "hf_bad")
    with refuses("AW-GET-06") as caught:
        fetch(REFERENCE, home)
    assert "hf_bad" not in repr(caught.value.as_dict())
    for token in ("hf_b\u00e4d", "hf_b\nad"):
        monkeypatch.setenv("HF_TOKEN", token)
        with refuses("AW-SET-02", "HF_TOKEN has a character") as caught:
            fetch(REFERENCE, home)
        assert token not in repr(caught.value.as_dict())
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    with HubServer(server.root) as content:
        server.content_url = content.url
        assert fetch(f"{REFERENCE}:Q8_0", home).licence == "mit"  # the page states none, the header does
    assert {one.authorization for one in content.heard} == {None}
    assert server.heard[-1].authorization == "Bearer hf_good"


@pytest.mark.enable_socket
def test_names_that_leave_the_folder_and_missing_digests_are_refused(server: HubServer, home: Home) -> None:
    for name in ("../tiny.gguf", "/etc/x.gguf", "a\\..\\b.gguf", "a\nb"):
        server.repositories[REPOSITORY] = Repository(extra=(name,))
        refuses_fetch("AW-GET-04", "leaves its folder", home)
    server.repositories[REPOSITORY] = Repository(no_digests=True)
    refuses_fetch("AW-GET-04", "states no digest", home)


@pytest.mark.enable_socket
def test_without_a_network_the_copy_of_the_home_is_used(
    server: HubServer, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = fetch(REFERENCE, home)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    heard = len(server.heard)
    assert fetch(REFERENCE, home) == stored and len(server.heard) == heard
    with refuses("AW-GET-09", hint="unset HF_HUB_OFFLINE, or use a model of the home: archwright models list"):
        fetch(f"{REFERENCE}:Q8_0", home)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    assert fetch(REFERENCE, home) == stored
    with refuses("AW-GET-03", "cannot be reached"):
        fetch(f"{REFERENCE}:Q8_0", home)


@pytest.mark.enable_socket
def test_a_full_disk_is_reported_before_the_download(
    server: HubServer, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(home.folder())._replace(free=64 << 20)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with refuses("AW-OPS-01", "no space"):
        fetch(REFERENCE, home)
    assert not server.downloaded() and list_stored_models(home) == ()


@pytest.mark.enable_socket
def test_a_disk_that_fills_up_is_reported_with_the_home(
    server: HubServer, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.folder("models")
    monkeypatch.setattr("archwright.engines.hub.os.fsync", raise_full)
    with refuses("AW-OPS-01", "the disk is full") as caught:
        fetch(REFERENCE, home)
    assert caught.value.where.file == str(home.root)


@pytest.mark.enable_socket
def test_a_file_above_the_limit_of_http_is_refused_with_another_way(
    server: HubServer, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.MAX_HTTP_DOWNLOAD_SIZE", 1000)
    assert "hf download" in refuses_fetch("AW-GET-10", "too large", home)


@pytest.mark.enable_socket
def test_folders_take_weights_and_descriptions_and_no_code(server: HubServer, home: Home) -> None:
    stored = fetch("hf:Tiny/Weights", home, StoreOptions(accelerator=True))
    folder = home.model_folder(stored.sha256)
    inside = sorted(path.name for path in folder.iterdir())
    assert inside == ["config.json", "generation_config.json", "model.safetensors", "tokenizer_config.json"]
    assert (stored.form, stored.task, stored.name, stored.quantisation) == (
        "safetensors",
        "generate",
        "Weights",
        "fp16",
    )
    assert stored.size_bytes == sum(path.stat().st_size for path in folder.iterdir())
    assert fetch("hf:Tiny/Weights", home, StoreOptions(accelerator=True)) == stored
    server.faults["config.json"] = Fault(wrong_bytes=True)
    model_store.remove_stored_model(home, "Weights")
    with refuses("AW-GET-04", "its digest is"):
        fetch("hf:Tiny/Weights", home, StoreOptions(accelerator=True))
    assert list_stored_models(home) == () and not any(path.suffix == ".d" for path in home.stored_models.iterdir())


@pytest.mark.enable_socket
def test_an_embedder_is_taken_as_onnx_with_its_pooling(server: HubServer, home: Home) -> None:
    stored = fetch("hf:Tiny/Embedder", home)
    folder = home.model_folder(stored.sha256)
    inside = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert inside == ["1_Pooling/config.json", "config.json", "model.onnx", "tokenizer.json"]
    assert (stored.form, stored.task, stored.quantisation) == ("onnx", "embed", "fp32")
    same = model_store.add_model(server.root / "Tiny/Embedder", "Embedder", "apache-2.0", home)
    assert same.sha256 == stored.sha256
    server.repositories["Tiny/Embedder"] = Repository(pipeline="text-generation")
    model_store.remove_stored_model(home, "Embedder")
    with refuses("AW-MOD-05", "needs a GPU"):  # a model that writes text is not served as ONNX
        fetch("hf:Tiny/Embedder", home)
