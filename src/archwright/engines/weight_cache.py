"""`python -P -m archwright.engines.weight_cache LIST SOURCE TARGET SLOTS`: verified weights, copied to the own disk.

SOURCE is a folder of a shared volume that `weight_files` filled and verified. At most SLOTS machines copy at a time:
the others wait, so that the first ones serve long before the last one has read. Every file is compared with its
SHA-256 on the way.

Design: a slot is a lock on a file of the shared volume, which its server frees when a machine is lost. On a volume
without locks all copy at once.
"""

import fcntl
import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import msgspec

from archwright.engines.weight_files import MARKER, WeightFolder, check_weights
from archwright.errors import ArchwrightError, ErrorLocation, MissingError, UsageError, boundary
from archwright.home import write_atomic
from archwright.journal import Journal
from archwright.python_process import run_entry_point

USAGE = "python -P -m archwright.engines.weight_cache LIST SOURCE TARGET SLOTS"
SLOT_FOLDER = ".copying"
# Files that one machine reads at once: a single stream of a network file system is slow.
STREAMS = 4
PIECE_BYTES = 1 << 24
POLL_S = 0.5


def main(arguments: Sequence[str]) -> int:
    """Return the exit status; an error is printed on standard error."""
    journal = Journal("weights")
    try:
        with boundary("weights"):
            if len(arguments) != 4 or not arguments[3].isdecimal() or int(arguments[3]) < 1:
                raise UsageError("AW-USE-40", "wrong arguments", hint=USAGE)
            list_file, source, target = (Path(argument) for argument in arguments[:3])
            copy_weights(list_file.read_bytes(), source, target, slots=int(arguments[3]), journal=journal)
            return 0
    except ArchwrightError as error:
        print(error.lines(), file=sys.stderr, flush=True)
        return error.exit_status


def copy_weights(
    text: bytes,
    source: Path,
    target: Path,
    *,
    slots: int,
    journal: Journal,
    sleep: Callable[[float], object] = time.sleep,
) -> None:
    """Copy the files of the list, then write the marker; files that an earlier start copied stay.

    Raises MissingError AW-GET-13 if SOURCE is not verified, AW-GET-04 for a file with another digest, OSError.
    """
    check_weights(text, source)
    digests = {
        f"{one.folder}/{name}": digest
        for one in msgspec.json.decode(text, type=list[WeightFolder])
        for name, digest in one.files.items()
    }
    missing = [name for name in sorted(digests) if not (target / name).is_file()]
    if missing:
        with _hold_slot(source.parent / SLOT_FOLDER, slots, journal, sleep), ThreadPoolExecutor(STREAMS) as pool:
            list(pool.map(lambda name: _copy_file(source / name, target / name, digests[name]), missing))
    target.mkdir(parents=True, exist_ok=True)
    write_atomic(target / MARKER, hashlib.sha256(text).hexdigest().encode(), mode=0o644)
    journal.info("copied", files=len(missing))


@contextmanager
def _hold_slot(folder: Path, slots: int, journal: Journal, sleep: Callable[[float], object]) -> Iterator[None]:
    """Wait for one of the slots, and hold it."""
    folder.mkdir(exist_ok=True)
    files = [(folder / str(number)).open("a") for number in range(slots)]
    try:
        is_told = False
        while not any(_try_lock(file, journal) for file in files):
            if not is_told:
                journal.info("waiting", slots=slots)
                is_told = True
            sleep(POLL_S)
        yield
    finally:
        for file in files:
            file.close()


def _try_lock(file: IO[str], journal: Journal) -> bool:
    """True if this process holds the lock now, or if the volume has none."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        journal.warning("no locks", message=error.strerror or str(error))
    return True


def _copy_file(source: Path, target: Path, sha256: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part, digest = target.with_name(f"{target.name}.part"), hashlib.sha256()
    with source.open("rb") as reader, part.open("wb") as writer:
        while piece := reader.read(PIECE_BYTES):
            digest.update(piece)
            writer.write(piece)
    if digest.hexdigest() != sha256:
        part.unlink()
        message = f"{source.name} in the shared volume has SHA-256 {digest.hexdigest()}, and the list says {sha256}"
        hint = "run the job that loads the weights again"
        raise MissingError("AW-GET-04", message, where=ErrorLocation(str(source)), hint=hint)
    part.chmod(0o644)
    os.replace(part, target)


if __name__ == "__main__":
    run_entry_point(main)
