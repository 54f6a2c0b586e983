"""`python -m archwright.engines.weight_files load|check LIST FOLDER`: the model files of a cluster, each verified.

LIST is JSON: folders with repository, revision, and the SHA-256 of each file. `load` downloads what is missing or
differs; without a repository, the files must be there already. It then writes the digest of LIST into FOLDER, and an
engine starts only if `check` finds it: files of hundreds of GB are read once, not at each start.
"""

import hashlib
import http.client
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import msgspec

from archwright.contract.record import Record
from archwright.engines.model_files import compute_digest
from archwright.errors import ArchwrightError, ErrorLocation, MissingError, UsageError, boundary
from archwright.home import write_atomic
from archwright.journal import Journal
from archwright.settings import HubAccess, read_hub_access

MARKER = ".verified"
PIECE_BYTES = 2**22
ANSWER_WITHIN_S = 60.0


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
                hint = "python -m archwright.engines.weight_files load|check LIST FOLDER"
                raise UsageError("AW-USE-40", "wrong arguments", hint=hint)
            text, target = Path(arguments[1]).read_bytes(), Path(arguments[2])
            if arguments[0] == "load":
                load_weights(text, target, read_hub_access(), journal)
            check_weights(text, target)
            return 0
    except ArchwrightError as error:
        print(error.lines(), file=sys.stderr, flush=True)
        return error.exit_status


def load_weights(text: bytes, target: Path, hub: HubAccess, journal: Journal) -> None:
    """Make the files those of the list, then write the marker.

    Raises MissingError AW-GET-04 for a file with another digest, AW-GET-03 without an answer, AW-GET-13 for a list
    without digests or with a file that nobody put there.
    """
    for one in msgspec.json.decode(text, type=list[WeightFolder]):
        if not one.files:
            hint = "write its files with their SHA-256 into pins.json, render again, and apply"
            raise MissingError("AW-GET-13", f"the files of {one.model} have no SHA-256", hint=hint)
        for name, digest in sorted(one.files.items()):
            path = target / one.folder / name
            if not path.resolve().is_relative_to((target / one.folder).resolve()):
                raise MissingError("AW-GET-04", f"the name {name[:100]!r} leaves its folder")
            if path.is_file() and compute_digest(path) == digest:
                journal.info("unchanged", file=name)
                continue
            _fetch_file(one, name, path, hub)
            journal.info("loaded", file=name, bytes=path.stat().st_size)
    target.mkdir(parents=True, exist_ok=True)
    write_atomic(target / MARKER, hashlib.sha256(text).hexdigest().encode(), mode=0o644)


def _fetch_file(one: WeightFolder, name: str, path: Path, hub: HubAccess) -> None:
    if not one.repository:
        hint = f"copy the files of {one.model} to {path.parent} in the volume, or state its repository in pins.json"
        message = f"{one.model} has no repository, and {name} is missing or differs from its SHA-256"
        raise MissingError("AW-GET-13", message, where=ErrorLocation(str(path)), hint=hint)
    url = f"{hub.endpoint}/{one.repository}/resolve/{quote(one.revision or 'main', safe='')}/{quote(name)}"
    request = urllib.request.Request(url)
    if hub.token:  # not sent to the host that a hub redirects to
        request.add_unredirected_header("Authorization", f"Bearer {hub.token}")
    path.parent.mkdir(parents=True, exist_ok=True)
    part, found = path.with_name(f"{path.name}.part"), hashlib.sha256()
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_WITHIN_S) as answer, part.open("wb") as sink:
            while piece := answer.read(PIECE_BYTES):
                found.update(piece)
                sink.write(piece)
    except (OSError, http.client.HTTPException) as error:
        hint = "check the egress of the cluster, HF_ENDPOINT, and HF_TOKEN for restricted models; the job tries again"
        message = f"{name} of {one.repository} cannot be fetched: {error}"
        raise MissingError("AW-GET-03", message, where=ErrorLocation(field=url), hint=hint) from error
    if found.hexdigest() != one.files[name]:
        part.unlink()
        message = f"{name} of {one.repository} has SHA-256 {found.hexdigest()}, and pins.json says {one.files[name]}"
        hint = "find out which one is right before you change pins.json"
        raise MissingError("AW-GET-04", message, where=ErrorLocation(field=url), hint=hint)
    part.replace(path)


def check_weights(text: bytes, target: Path) -> None:
    """Raises MissingError AW-GET-13 if the folder does not hold the verified files of this list."""
    marker = target / MARKER
    if not marker.is_file() or marker.read_text() != hashlib.sha256(text).hexdigest():
        hint = "wait for the job that loads the weights, and read its log"
        raise MissingError("AW-GET-13", f"{target} has no verified files of this list", hint=hint)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
