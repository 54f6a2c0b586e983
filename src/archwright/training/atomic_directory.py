"""Atomic directories: written to a temporary folder, checked by digest, renamed into place.

The manifest lists every file with SHA-256 and size and is written last; files and folders are synced to disk. After a
crash the old or the new folder exists, or a leftover that the next writer removes or restores.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from archwright.contract.record import Record
from archwright.errors import from_os_error

MANIFEST = "manifest.json"
LEFTOVER_PREFIX = ".sealing-"
OLD_PREFIX = f"{LEFTOVER_PREFIX}old-"


class ManifestEntry(Record):
    sha256: str
    size_bytes: int


class Manifest(Record):
    files: dict[str, ManifestEntry]


def write_directory(target: Path, fill: Callable[[Path], None]) -> None:
    """Create or replace the folder `target` with what `fill` writes into an empty folder.

    Writers of one parent folder must not run at the same time, since each removes leftovers.
    Raises what `from_os_error` makes, for example OperateError AW-OPS-01 (disk full); `target` is unchanged then.
    """
    parent = target.parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(parent)
        scratch = Path(tempfile.mkdtemp(prefix=LEFTOVER_PREFIX, dir=parent))
        try:
            fill(scratch)
            _write_manifest(scratch)
            if target.exists():
                os.rename(target, parent / f"{OLD_PREFIX}{target.name}")
            os.rename(scratch, target)
            _sync_to_disk(parent)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            _remove_leftovers(parent)
    except OSError as error:
        raise from_os_error(error) from error


def _remove_leftovers(parent: Path) -> None:
    """Remove leftovers of a crash; move an old folder back if its replacement is missing."""
    for left in parent.glob(f"{LEFTOVER_PREFIX}*"):
        place = parent / left.name.removeprefix(OLD_PREFIX)
        if left.name.startswith(OLD_PREFIX) and not place.exists():
            os.rename(left, place)
        else:
            shutil.rmtree(left, ignore_errors=True)


def write_files(target: Path, files: Mapping[str, bytes]) -> None:
    def fill(folder: Path) -> None:
        for name, data in files.items():
            (folder / name).write_bytes(data)

    write_directory(target, fill)


def find_damage(folder: Path) -> str:
    """Read all files. Returns the first defect of the folder, empty if all files match the manifest."""
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except OSError as error:
        return f"its manifest cannot be read ({error.strerror})"
    except msgspec.MsgspecError as error:
        return f"its manifest is damaged ({error})"
    for name, entry in manifest.files.items():
        try:
            if (folder / name).stat().st_size != entry.size_bytes or compute_digest(folder / name) != entry.sha256:
                return f"{name} is damaged"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
    return ""


def read_files(folder: Path) -> dict[str, bytes]:
    """The files of the folder. Raises ValueError if a file does not match the manifest."""
    found: dict[str, bytes] = {}
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
        for name, entry in manifest.files.items():
            found[name] = (folder / name).read_bytes()
            if hashlib.sha256(found[name]).hexdigest() != entry.sha256:
                raise ValueError(f"{name} is damaged")
    except OSError as error:
        raise ValueError(f"{Path(str(error.filename)).name} cannot be read ({error.strerror})") from error
    except msgspec.MsgspecError as error:
        raise ValueError(f"its manifest is damaged ({error})") from error
    return found


def _write_manifest(folder: Path) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    entries = {
        str(path.relative_to(folder)): ManifestEntry(sha256=compute_digest(path), size_bytes=path.stat().st_size)
        for path in files
    }
    manifest = folder / MANIFEST
    manifest.write_bytes(msgspec.json.format(msgspec.json.encode(Manifest(files=entries)), indent=1))
    for path in (*files, manifest, folder):
        _sync_to_disk(path)


def compute_digest(path: Path) -> str:
    """The SHA-256 of a file. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
