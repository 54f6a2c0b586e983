"""`python -P -m archwright.engines.weight_files load|check LIST FOLDER`: the model files of a cluster, each verified.

LIST is JSON: folders with repository, revision, and the SHA-256 of each file. `load` downloads what is missing or
differs; without a repository, the files must be there already. It then writes the digest of LIST into FOLDER, and an
engine starts only if `check` finds it: files of hundreds of GB are read once, not at each start.

Each list has a folder of its own beside those of earlier lists, whose files stay while engines use them. A file that an
earlier list brought is linked: a new adapter neither loads nor stores the weights of its base again.
"""

import hashlib
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path

import msgspec

from archwright.contract.record import Record
from archwright.engines.hub import HubClient, HubReference
from archwright.engines.model_files import compute_digest
from archwright.errors import ArchwrightError, ErrorLocation, MissingError, UsageError, boundary
from archwright.home import write_atomic
from archwright.journal import Journal
from archwright.python_process import run_entry_point
from archwright.settings import HubAccess, read_hub_access

MARKER = ".verified"


class WeightFolder(Record):
    """A folder of a model: `files` maps each name to its SHA-256."""

    folder: str
    model: str
    repository: str
    revision: str
    files: dict[str, str]


def main(arguments: Sequence[str]) -> int:
    """Return the exit status; an error is printed on standard error."""
    journal = Journal("weights")
    try:
        with boundary("weights"):
            if len(arguments) != 3 or arguments[0] not in ("load", "check"):
                hint = "python -P -m archwright.engines.weight_files load|check LIST FOLDER"
                raise UsageError("AW-USE-40", "wrong arguments", hint=hint)
            text, target = Path(arguments[1]).read_bytes(), Path(arguments[2])
            if arguments[0] == "load":
                load_weights(text, target, read_hub_access(), journal)
            check_weights(text, target)
            return 0
    except ArchwrightError as error:
        print(error.lines(), file=sys.stderr, flush=True)
        return error.exit_status


def load_weights(text: bytes, target: Path, access: HubAccess, journal: Journal) -> None:
    """Make the files those of the list, then write the marker. A download that ended early continues.

    Raises MissingError AW-GET-04 for a file with another digest, AW-GET-13 for a list without digests or with a file
    that nobody put there, and as HubClient does.
    """
    for one in msgspec.json.decode(text, type=list[WeightFolder]):
        if not one.files:
            hint = "write its files with their SHA-256 into pins.json, render again, and apply"
            raise MissingError("AW-GET-13", f"the files of {one.model} have no SHA-256", hint=hint)
        paths = {name: target / one.folder / name for name in sorted(one.files)}
        for name, path in paths.items():
            if not path.resolve().is_relative_to((target / one.folder).resolve()):
                raise MissingError("AW-GET-04", f"the name {name[:100]!r} leaves its folder")
        missing = {name: path for name, path in paths.items() if not _has_file(path, one.files[name], target)}
        if missing:
            _fetch_files(one, missing, access, journal)
        journal.info("verified", model=one.model, files=len(paths), loaded=len(missing))
    target.mkdir(parents=True, exist_ok=True)
    write_atomic(target / MARKER, hashlib.sha256(text).hexdigest().encode(), mode=0o644)


def _has_file(path: Path, sha256: str, target: Path) -> bool:
    """True if the file has this digest, or if a file of an earlier list with this digest could take its place."""
    if path.is_file() and compute_digest(path) == sha256:
        return True
    for earlier in _list_earlier_files(path.relative_to(target), target):
        if compute_digest(earlier) == sha256:
            path.parent.mkdir(parents=True, exist_ok=True)
            _link_file(earlier, path)
            return True
    return False


def _list_earlier_files(name: Path, target: Path) -> Iterator[Path]:
    """Yield the file of this name of each other list of the volume."""
    for folder in sorted(target.parent.glob("*")):
        with suppress(PermissionError):  # a file system may have folders of its own
            if folder != target and (folder / name).is_file():
                yield folder / name


def _link_file(source: Path, path: Path) -> None:
    """Give a file a second name; its content is copied on a file system without links."""
    part = path.with_name(f"{path.name}.part")
    part.unlink(missing_ok=True)
    try:
        os.link(source, part)
    except OSError:
        shutil.copyfile(source, part)
        part.chmod(0o644)
    part.replace(path)


def _fetch_files(one: WeightFolder, missing: dict[str, Path], access: HubAccess, journal: Journal) -> None:
    if not one.repository:
        name, path = next(iter(missing.items()))
        hint = f"copy the files of {one.model} to {path.parent} in the volume, or state its repository in pins.json"
        message = f"{one.model} has no repository, and {name} is missing or differs from its SHA-256"
        raise MissingError("AW-GET-13", message, where=ErrorLocation(str(path)), hint=hint)
    with closing(HubClient(access)) as client:
        repository = client.read_repository(HubReference(one.repository, one.revision))
        known = {file.name: file for file in repository.files}
        for name, path in missing.items():
            if name not in known:
                hint = "correct the name, or the revision, in pins.json"
                raise MissingError("AW-GET-07", f"{one.repository} has no file {name}", hint=hint)
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f"{path.name}.part")
            # The hub states the digest of a large file: hundreds of GB need not be read to find another one.
            if not (found := known[name].sha256) or found == one.files[name]:
                client.download(repository, known[name], part)
                found = compute_digest(part)
            if found != one.files[name]:
                part.unlink(missing_ok=True)
                message = f"{name} of {one.repository} has SHA-256 {found}, and pins.json says {one.files[name]}"
                hint = "find out which one is right before you change pins.json"
                raise MissingError("AW-GET-04", message, where=ErrorLocation(field=one.repository), hint=hint)
            part.chmod(0o644)  # engines run as another user
            part.replace(path)
            journal.info("loaded", file=name, bytes=path.stat().st_size)


def check_weights(text: bytes, target: Path) -> None:
    """Raises MissingError AW-GET-13 if the folder does not hold the verified files of this list."""
    marker = target / MARKER
    if not marker.is_file() or marker.read_text() != hashlib.sha256(text).hexdigest():
        hint = "wait for the job that loads the weights, and read its log"
        raise MissingError("AW-GET-13", f"{target} has no verified files of this list", hint=hint)


if __name__ == "__main__":
    run_entry_point(main)
