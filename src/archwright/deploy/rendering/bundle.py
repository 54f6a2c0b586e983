"""A bundle: the files of a target, written so that the same plan gives the same bytes.

`archwright.json` in its root says which plan, option and target it is, and the digest of each file. A folder that
another program wrote is refused; files of an earlier rendering that the new one does not have are removed.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
import yaml

from archwright.contract.record import Record, replace
from archwright.deploy.rendering.components import BundlePath, Pins, list_open_pins
from archwright.deploy.rendering.templating import RenderedObject, merge_values
from archwright.errors import ErrorLocation, PlanFileError, UsageError
from archwright.home import write_atomic

MANIFEST, PINS, UNRESOLVED_LIST = "archwright.json", "pins.json", "unresolved.txt"
ANNOTATION = "archwright.dev"
# Files without YAML or JSON whose comments start with "#".
COMMENTED = frozenset({".service", ".socket", ".slice", ".target", ".timer", ".conf", ".sh", ".env", ".toml", ".txt"})
COMMENTED_NAMES = frozenset({"Containerfile", ".containerignore"})


class BundleManifest(Record):
    """archwright.json. `files` maps each path to its SHA-256; `components` to the version that the bundle installs.

    `environment`: empty for the only one of a plan.
    """

    target: str
    option: str
    plan_digest: str
    archwright: str
    components: dict[str, str] = {}
    files: dict[BundlePath, str] = {}
    environment: str = ""


class BundleFile(Record):
    text: str
    mode: int = 0o644

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


class FileBundle(Record):
    """The files of a target by path. `pins`: what the objects name exactly, and what is not resolved yet."""

    target: str
    option: str
    plan_digest: str
    files: dict[str, BundleFile]
    components: dict[str, str]
    pins: Pins
    environment: str = ""

    def build_manifest(self, version: str) -> BundleManifest:
        return BundleManifest(
            target=self.target,
            option=self.option,
            plan_digest=self.plan_digest,
            archwright=version,
            components=self.components,
            environment=self.environment,
            files={path: one.sha256 for path, one in sorted(self.files.items())},
        )


def compose_pin_files(pins: Pins) -> dict[str, BundleFile]:
    """Return pins.json, and the list of what is not resolved: `install.sh` refuses a bundle that has one."""
    files = {PINS: BundleFile(text=encode_json(msgspec.to_builtins(pins)))}
    if unresolved := [f"{pin.subject}: {pin.problem}\n" for pin in list_open_pins(pins)]:
        files[UNRESOLVED_LIST] = BundleFile(text="".join(unresolved))
    return files


def compose_files(objects: Iterable[RenderedObject]) -> dict[str, BundleFile]:
    """Return the files of the objects: YAML documents follow each other, JSON objects are merged."""
    grouped: dict[str, list[RenderedObject]] = {}
    for one in objects:
        grouped.setdefault(one.file, []).append(one)
    return {
        path: BundleFile(text=_compose_file(PurePosixPath(path), found), mode=max(one.mode for one in found))
        for path, found in sorted(grouped.items())
    }


def complete_kustomizations(objects: list[RenderedObject]) -> list[RenderedObject]:
    """Return the objects; each Kustomization lists the files with objects of Kubernetes in its folder, in their order.

    A file that another one generates from, such as the values of a chart, has no `kind` and is not listed.
    """
    folders: dict[PurePosixPath, dict[str, None]] = {}
    for one in objects:
        path = PurePosixPath(one.file)
        if isinstance(one.value, dict) and {"apiVersion", "kind"} <= one.value.keys() and not _is_kustomization(one):
            folders.setdefault(path.parent, {})[path.name] = None
    return [_add_resources(one, folders) if _is_kustomization(one) else one for one in objects]


def _is_kustomization(one: RenderedObject) -> bool:
    return PurePosixPath(one.file).name == "kustomization.yaml"


def _add_resources(one: RenderedObject, folders: dict[PurePosixPath, dict[str, None]]) -> RenderedObject:
    found = folders.get(PurePosixPath(one.file).parent, {})
    return one._replace(value={**one.value, "resources": [*one.value.get("resources", []), *found]})


def _compose_file(path: PurePosixPath, found: list[RenderedObject]) -> str:
    if found[0].text:
        return "".join(_compose_text(path, one) for one in found)
    if path.name.endswith(".json"):
        return _compose_json(found, terraform=path.name.endswith(".tf.json"))
    return "---\n".join(map(_compose_yaml, found))


def _compose_json(found: list[RenderedObject], *, terraform: bool) -> str:
    merged: dict[str, Any] = {}
    for one in found:
        if not isinstance(one.value, dict):
            return encode_json(one.value)
        if terraform:
            _add_reason(one)
        merge_values(merged, one.value)
    return encode_json(merged)


def encode_json(value: object) -> str:
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _add_reason(one: RenderedObject) -> None:
    """Write the reason of each resource and module under the key that Terraform reads as a comment."""
    blocks = [block for kind in one.value.get("resource", {}).values() for block in kind.values()]
    for block in (*blocks, *one.value.get("module", {}).values()):
        block.setdefault("//", _format_reason(one))


def _format_reason(one: RenderedObject) -> str:
    return one.reason + (f" [predictions: {', '.join(one.predictions)}]" if one.predictions else "")


def _compose_yaml(one: RenderedObject) -> str:
    value = one.value
    if isinstance(value, dict) and {"kind", "metadata"} <= value.keys() and one.reason:
        notes = {f"{ANNOTATION}/reason": one.reason}
        if one.predictions:
            notes[f"{ANNOTATION}/predictions"] = ", ".join(one.predictions)
        value = {**value, "metadata": {**value["metadata"]}}
        value["metadata"]["annotations"] = {**value["metadata"].get("annotations", {}), **notes}
    text = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    comment = _format_reason(one) if value is one.value else ""
    return (f"# {comment}\n" if comment else "") + text


class _Dumper(yaml.CSafeDumper):
    """Writes lists indented below their key, texts of several lines as blocks, and no aliases."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _represent_text(dumper: yaml.CSafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _represent_text)


def _compose_text(path: PurePosixPath, one: RenderedObject) -> str:
    reason = _format_reason(one)
    if not reason or not (path.suffix in COMMENTED or path.name in COMMENTED_NAMES):
        return one.text
    first, line_end, rest = one.text.partition("\n")
    if first.startswith("#!"):
        return f"{first}{line_end}# {reason}\n{rest}"
    return f"# {reason}\n{one.text}"


def read_manifest(folder: Path) -> BundleManifest | None:
    """Return the manifest of a bundle, None without one. Raises PlanFileError AW-FILE-11 for a broken one."""
    found: BundleManifest | None = _read_record(folder / MANIFEST, BundleManifest)
    return found


def read_pins(folder: Path) -> Pins:
    """Return the pins of a bundle, none without a file. Raises PlanFileError AW-FILE-11 for a broken one."""
    return _read_record(folder / PINS, Pins) or Pins()


def _read_record(path: Path, kind: type[Any]) -> Any:
    if not path.is_file():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        hint = "correct the file, or render into another folder"
        where = ErrorLocation(str(path))
        raise PlanFileError("AW-FILE-11", f"the file is not readable: {error}", where=where, hint=hint) from error


def check_folder(folder: Path) -> None:
    """Raises UsageError AW-USE-02 if another program wrote the folder."""
    if folder.exists() and not folder.is_dir():
        raise _refuse(folder, f"{folder} is a file")
    if folder.is_dir() and any(folder.iterdir()) and read_manifest(folder) is None:
        raise _refuse(folder, f"{folder} is not empty and has no {MANIFEST}")


def _refuse(folder: Path, message: str) -> UsageError:
    hint = "choose an empty folder, or a folder that `archwright render` wrote"
    return UsageError("AW-USE-02", message, where=ErrorLocation(str(folder)), hint=hint)


def write_bundle(bundle: FileBundle, folder: Path, version: str) -> BundleManifest:
    """Write the files, then the manifest; remove files of the earlier rendering that the bundle does not have.

    Concurrent renderings wait for each other. One that is killed leaves a manifest of its files and the earlier ones,
    so the next one completes it. Raises UsageError AW-USE-02 for a link in the place of a file or folder.
    """
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        earlier, manifest = read_manifest(folder), bundle.build_manifest(version)
        known = {**(earlier.files if earlier is not None else {}), **manifest.files}
        _check_places(folder, (MANIFEST, *known))
        _write_manifest(folder, replace(manifest, files=known))
        for path, one in bundle.files.items():
            write_atomic(folder / path, one.text.encode(), mode=one.mode)
        for path in known.keys() - bundle.files.keys():
            (folder / path).unlink(missing_ok=True)
        for left in folder.rglob(".*.????????"):  # temporary files of a killed rendering
            if str(left.with_name(left.name[1:-9]).relative_to(folder)) in known:
                left.unlink()
        _write_manifest(folder, manifest)
    finally:
        os.close(handle)
    return manifest


def _write_manifest(folder: Path, manifest: BundleManifest) -> None:
    write_atomic(folder / MANIFEST, encode_json(msgspec.to_builtins(manifest)).encode(), mode=0o644)


def _check_places(folder: Path, paths: Iterable[str]) -> None:
    for path in paths:
        file = folder / path
        for place in (file, *(folder / parent for parent in PurePosixPath(path).parents[:-1])):
            fits = place.is_file() if place == file else place.is_dir()
            if place.is_symlink() or (place.exists() and not fits):
                raise _refuse(folder, f"{place} is a link, or is no {'file' if place == file else 'folder'}")
