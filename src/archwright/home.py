"""The home folder: the only module that knows paths. A folder is created when something is first written to it.

`schema.json` in the root says which version of the stored formats a home holds and which program wrote it. A home
without the file is version 0. `locate_home` migrates an older home and refuses a newer one.
Design: a change of a stored format raises SCHEMA_VERSION and appends its migration to MIGRATIONS.
"""

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Annotated, BinaryIO, cast

import msgspec

from archwright import __version__
from archwright.errors import ErrorLocation, SettingsError
from archwright.settings import Settings, locate_root

# Linux allows 107 bytes for a Unix socket's path; macOS 103. The socket of an engine is 4 bytes longer than its link.
SOCKET_PATH_LIMIT = 99
# The version of everything stored below a home: log segments, tables, configuration and state files.
SCHEMA_VERSION = 4


class HomeSchema(msgspec.Struct, frozen=True):
    """The content of `schema.json`: version of the stored formats, version of the program that wrote the file.

    A newer program may add fields; `version` alone must stay readable.
    """

    version: Annotated[int, msgspec.Meta(ge=0)]
    written_by: str = ""


class Home:
    """The paths below `root`, computed on access; folders are private to the user (0700)."""

    def __init__(self, root: str | Path) -> None:
        """Raises SettingsError AW-SET-04 for a `~name` of an unknown user."""
        self.root = locate_root(root)

    def folder(self, *parts: str) -> Path:
        """Return the folder, created if absent, part by part: `parents=True` would leave its parents readable."""
        path = self.root
        if not path.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir(exist_ok=True, mode=0o700)
            self._write_schema(SCHEMA_VERSION)
        for part in parts:
            path = path / part
            path.mkdir(exist_ok=True, mode=0o700)
        return path

    def close_to_others(self) -> None:
        """Remove the mode bits of group and others, and note it on standard error.

        Raises SettingsError AW-SET-07 for a home that another user owns or could replace, or whose secrets are a link.
        """
        _check_parents(self.root.resolve())
        secret_folder = self.root / "secrets"
        if secret_folder.is_symlink():
            hint = "move the folder that the link names back into the home"
            raise _access_error("the folder of the secrets is a link", secret_folder, hint)
        # root owns `lost+found`, which a file system that is mounted on the home may have
        tops = (path for path in self.root.iterdir() if path.name != "lost+found")
        owned = [self.root, *tops, *(secret_folder.iterdir() if secret_folder.is_dir() else ())]
        for path in owned:
            with suppress(FileNotFoundError):  # SQLite and other commands remove files meanwhile
                if (path.stat() if path == self.root else path.lstat()).st_uid == os.getuid():
                    continue
                hint = f"run: chown -R {os.getuid()} {self.root}, or set ARCHWRIGHT_HOME to another folder"
                if path == self.root:  # perhaps a service's, which another owner would break
                    hint = f"run the command as that user: sudo -u '#{path.stat().st_uid}' archwright ...; or {hint}"
                raise _access_error("another user owns this home or a part of it", path, hint)
        if close_path(self.root):  # first: then nobody else can change what is below
            if self.root.stat().st_mode & 0o077:
                hint = "set ARCHWRIGHT_HOME to a file system that keeps modes, or mount this one with mode 0700"
                raise _access_error("other users can read this home: its file system ignores chmod", self.root, hint)
            closed = 1 + sum(close_path(path) for path in self.root.rglob("*") if not path.is_symlink())
            sys.stderr.write(
                f"note: the home {self.root} was open to other users. The modes of {closed} paths were corrected.\n"
                "      If another user may have read it, create new secrets: archwright key rotate ID\n"
            )

    def check_complete(self) -> None:
        """Raise SettingsError AW-SET-10 if the restoration of this home was interrupted."""
        if self.unfinished_restoration.exists():
            message = "this home is incomplete: its restoration was interrupted"
            hint = "run archwright restore again with the same place and backup; it goes on"
            raise SettingsError("AW-SET-10", message, where=ErrorLocation(str(self.root)), hint=hint)

    def migrate(self) -> None:
        """Migrate an existing home to SCHEMA_VERSION. Concurrent processes wait for each other."""
        pending = MIGRATIONS[self.schema_version :]
        if not pending:
            return
        unchanging = {_keep_formats} if self.has_pepper else {_keep_formats, _expect_unsigned_rows}
        try:
            folder = os.open(self.root, os.O_RDONLY)
            try:
                fcntl.flock(folder, fcntl.LOCK_EX)
                versions = range(self.schema_version, SCHEMA_VERSION)
                if any(MIGRATIONS[version] not in unchanging for version in versions):
                    self._check_stopped()
                for version in versions:
                    MIGRATIONS[version](self)
                    self._write_schema(version + 1)
            finally:
                os.close(folder)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and set(pending) <= unchanging:
                return  # no format changes, so a home that this user may only read stays readable
            raise self._schema_error(
                "AW-SET-06",
                f"the migration of this home to schema version {SCHEMA_VERSION} failed: {error.strerror or error}",
                "give this user write access to the home and free space, then run the command again",
            ) from error

    def _check_stopped(self) -> None:
        """Raise SettingsError AW-SET-06 while a platform of an older version uses the stored formats."""
        with open_private(self.lock, "ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                message = "the stored formats cannot be migrated while a platform of this home runs"
                hint = "stop it, with the version that started it: archwright down"
                raise self._schema_error("AW-SET-06", message, hint) from error

    @property
    def schema_version(self) -> int:
        """The version of the stored formats. Raises SettingsError AW-SET-05 for a newer one, AW-SET-06."""
        try:
            version = msgspec.json.decode(self._schema_file.read_bytes(), type=HomeSchema).version
        except FileNotFoundError:
            return 0
        except (OSError, msgspec.MsgspecError) as error:
            raise self._schema_error(
                "AW-SET-06",
                f"the schema version of this home is unreadable: {error}",
                "copy the file from a restored backup: archwright restore --into DIR",
            ) from error
        if version > SCHEMA_VERSION:
            raise self._schema_error(
                "AW-SET-05",
                f"a newer archwright wrote this home: schema version {version}, this program knows {SCHEMA_VERSION}",
                "upgrade: pip install -U archwright; or restore a backup from before the upgrade: "
                "archwright restore ID --into DIR",
            )
        return version

    def _write_schema(self, version: int) -> None:
        write_json(self._schema_file, HomeSchema(version, __version__))

    @property
    def _schema_file(self) -> Path:
        return self.root / "schema.json"

    def _schema_error(self, code: str, message: str, hint: str) -> SettingsError:
        return SettingsError(code, message, where=ErrorLocation(str(self._schema_file)), hint=hint)

    @property
    def store_url(self) -> str:
        path = self.folder() / "archwright.db"
        if not path.exists():
            # SQLite would obey the umask. An existing file must not be opened: closing it would release the locks that
            # this process holds through SQLite.
            with suppress(FileExistsError):
                path.touch(0o600, exist_ok=False)
        return f"sqlite:///{path}"

    @property
    def pepper(self) -> Path:
        return self.folder("secrets") / "pepper"

    @property
    def has_pepper(self) -> bool:
        """True if the home had keys; unlike `pepper`, this creates no folder."""
        return (self.root / "secrets" / "pepper").exists()

    @property
    def unsigned_rows(self) -> Path:
        """Exists until the rows of keys of an older version are signed (`access.signed_rows`)."""
        return self.root / "secrets" / "unsigned-rows"

    @property
    def pseudonym_secret(self) -> Path:
        """The secret of the pseudonyms in data sets; without it, the same value gets another pseudonym."""
        return self.folder("secrets") / "pseudonym-secret"

    @property
    def audit_signing_key(self) -> Path:
        """The private key of the audit log's checkpoints. Only their writer creates the folder."""
        return self.root / "secrets" / "audit-signing-key"

    @property
    def audit_checkpoints(self) -> Path:
        """The signed checkpoints of the audit log, one JSON line each. Only their writer creates the folder."""
        return self.root / "audit" / "checkpoints.jsonl"

    @property
    def legal_holds(self) -> Path:
        """The legal holds on audit and usage records (`access.log_retention`)."""
        return self.root / "audit" / "legal-holds.json"

    @property
    def disk_reserve(self) -> Path:
        """Allocated bytes that administration frees on a full disk."""
        return self.root / "run" / "disk-reserve"

    def model(self, sha256: str, form: str = "gguf") -> Path:
        """A model file (base, adapter, classifier) under its digest; `form` is gguf, onnx or safetensors."""
        return self.folder("models") / f"{sha256}.{form}"

    def find_model(self, sha256: str) -> Path | None:
        """The GGUF file of this digest, None if it is not in this home."""
        path = self.stored_models / f"{sha256}.gguf"
        return path if sha256 and path.is_file() else None

    def model_folder(self, sha256: str) -> Path:
        """A model of several files (weights, tokenizer, configuration) under the digest of its list of digests."""
        return self.folder("models") / f"{sha256}.d"

    def model_record(self, sha256: str) -> Path:
        """The StoredModel of a fetched or added model, beside its file or folder."""
        return self.stored_models / f"{sha256}.json"

    @property
    def stored_models(self) -> Path:
        """The folder of the models. Only what stores a model creates it."""
        return self.root / "models"

    def dequantised_base(self, sha256: str) -> Path:
        """The dequantised copy of a quantised base model, made by the first training run that needs it."""
        return self.folder("models", "bases") / sha256

    @property
    def backups(self) -> Path:
        """The lock of the home's backups, and the records of their drills; backups themselves are elsewhere."""
        return self.folder("backups")

    @property
    def unfinished_restoration(self) -> Path:
        """The id of the backup that is being restored to this home; it exists until the home is complete."""
        return self.root / ".restoring"

    @property
    def batches(self) -> Path:
        """Files and batches of the gateway's clients, a folder per tenant. Only an upload creates it."""
        return self.root / "batches"

    @property
    def open_batches(self) -> Path:
        """A file for each batch that is not done; the process that runs the batch holds its lock."""
        return self.batches / "_open"  # no tenant has this name

    @property
    def lake(self) -> Path:
        return self.folder("lake")

    def run(self, run: str) -> Path:
        """Everything a training run writes: spec, progress, checkpoints, log, result."""
        return self.folder("runs", run)

    def worker_group(self, run: str) -> Path:
        """The messages between the workers of a run and the process that started them."""
        return self.folder("runs", run, "crew")

    def ray_session(self, run: str) -> Path:
        """The sessions of a run's Ray: outside the home, because Ray adds 65 bytes to the paths of its sockets."""
        name = hashlib.sha256(os.fsencode(self.root / run)).hexdigest()[:12]
        return _private_folder(Path(tempfile.gettempdir()) / f"aw-{name}")

    @property
    def ray_token(self) -> Path:
        """The token of a Ray that was started here."""
        return self.folder("secrets") / "ray-token"

    @property
    def machine_facts(self) -> Path:
        """The result of the probe: the measured layer of the catalog. Only the probe creates its folder."""
        return self.root / "measured" / "machine.json"

    @property
    def engine_measurements(self) -> Path:
        """The measured steps of engines on this machine. Only a measurement creates its folder."""
        return self.root / "measured" / "engine-steps.json"

    @property
    def catalog_overlay(self) -> Path:
        """The user's own facts, which override the shipped catalog; optional."""
        return self.root / "catalog" / "user.yaml"

    @property
    def catalog_refreshed(self) -> Path:
        """The facts of `catalog refresh`: one file per generation. Only the refresh creates its folder."""
        return self.root / "catalog" / "refreshed"

    @property
    def write_ahead_log(self) -> Path:
        """The records that are not in the store yet."""
        return self.folder("ledger")

    @property
    def counters(self) -> Path:
        """The gateway's counters: one file per serving process."""
        return self.folder("run", "counters")

    @property
    def plan(self) -> Path:
        return self.folder("run") / "plan.json"

    @property
    def state(self) -> Path:
        return self.folder("run") / "state.json"

    @property
    def lock(self) -> Path:
        return self.folder("run") / "supervisor.lock"

    @property
    def alerts(self) -> Path:
        """The alerts of the gateway that were sent, so that none is sent again."""
        return self.folder("run") / "alerts.json"

    @property
    def shared_tables(self) -> Path:
        """The tables that the worker processes of this machine share."""
        return self.folder("run", "slates")

    @property
    def start_requests(self) -> Path:
        """The gateway's requests to start engines: a file by the engine's name."""
        return self.folder("run", "starts")

    def config(self, process: str) -> Path:
        return self.folder("run") / f"{process}.json"

    def engine_root(self, process: str) -> Path:
        """The folder that an engine with its own user knows as its home."""
        return self.root / "engines" / process

    def unit_config(self, process: str) -> Path:
        """The configuration of an engine that a service manager starts: the engine may read it, not write it."""
        return self.folder("config") / f"{process}.json"

    def log(self, process: str) -> Path:
        return self.folder("logs") / f"{process}.log"

    def open_log(self, process: str) -> BinaryIO:
        """Open a log, readable by this user only. Every write goes to its end, so that it can be truncated."""
        return open_private(self.log(process), "ab")

    def socket(self, process: str) -> Path:
        """The Unix socket of `process`; in a temporary folder if the path of the home is too long."""
        path = self.folder("run") / f"{process}.sock"
        if len(os.fsencode(path)) <= SOCKET_PATH_LIMIT:
            return path
        name = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:16]
        return _private_folder(Path(tempfile.gettempdir()) / f"archwright-{os.getuid()}-{name}") / f"{process}.sock"

    def engine_socket(self, process: str) -> Path:
        """The socket of an engine, to which `socket` is a link: in a folder where the engine can change nothing else.

        Only the engine creates the folder.
        """
        return self.socket(process).with_suffix(".d") / "s.sock"

    def remove_socket(self, process: str) -> None:
        """Remove the socket of a process and its folder."""
        self.socket(process).unlink(missing_ok=True)
        shutil.rmtree(self.engine_socket(process).parent, ignore_errors=True)


def list_cache_folders() -> tuple[Path, ...]:
    """Return the folders in which libraries of servers with GPUs keep compiled code and settings of this user."""
    user = locate_root("~")
    return tuple(user / name for name in (".cache", ".config", ".triton", ".nv"))


def _keep_formats(_home: Home) -> None:
    """Keep older records, which stay valid.

    Version 1 introduced `schema.json`, version 2 optional fields of audit records, version 4 the limit `parallel`."""


def _expect_unsigned_rows(home: Home) -> None:
    """Version 3 signs the rows of keys and limits. The first command that reads keys signs those of the database."""
    if home.has_pepper:
        write_atomic(home.unsigned_rows, b"")


# Item N migrates from version N. It must be repeatable: a crash before the new `schema.json` is written repeats it.
MIGRATIONS: tuple[Callable[[Home], None], ...] = (_keep_formats, _keep_formats, _expect_unsigned_rows, _keep_formats)


def locate_home(chosen: Settings) -> Home:
    """Return the home that the settings in force name, migrated to SCHEMA_VERSION.

    Raises SettingsError AW-SET-05 for a home of a newer program, AW-SET-06 for one that cannot be read or migrated,
    AW-SET-07 for one that another user owns or could replace, AW-SET-10 for one whose restoration was interrupted.
    """
    home = Home(chosen.home)
    if home.root.is_dir():
        home.close_to_others()
        home.check_complete()
        home.migrate()
    return home


def _check_parents(home: Path) -> None:
    """Raise SettingsError AW-SET-07 if a user other than root could rename `home` or a folder above it.

    A group that may write to such a folder is trusted: team folders and Kubernetes' fsGroup are made so. Root trusts
    the owners of such folders: a container often mounts a folder of another user.
    """
    trusted = (0, os.getuid(), Path("/").stat().st_uid)  # a user namespace may show root under another id
    for path, parent in pairwise((home, *home.parents)):
        found = parent.stat()
        if os.path.ismount(path):
            continue  # nobody can rename a mount point
        if found.st_uid not in trusted and os.getuid():
            hint = "set ARCHWRIGHT_HOME to a folder that only you can replace, or mount a folder of yours on the home"
            message = f"the user {found.st_uid} can replace folders in {parent}, so also this home"
            raise _access_error(message, parent, hint)
        if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
            hint = f"run: chmod +t {parent}, or set ARCHWRIGHT_HOME to a folder that only you can replace"
            raise _access_error(f"every user can replace folders in {parent}, so also this home", parent, hint)


def close_path(path: Path) -> int:
    """Remove the mode bits of group and others; return 1 if there were any. Another user's socket is left as it is."""
    try:
        found = path.lstat() if not path.is_symlink() else path.stat()
        if not found.st_mode & 0o077 or found.st_uid != os.getuid():
            return 0
        path.chmod(stat.S_IMODE(found.st_mode) & 0o700)
    except FileNotFoundError:  # it was removed meanwhile
        return 0
    except OSError as error:
        hint = f"run: chmod -R go= {path}, or use a file system that keeps modes"
        raise _access_error(f"other users can read it, and its mode cannot be changed: {error}", path, hint) from error
    return 1


def _access_error(message: str, path: Path, hint: str) -> SettingsError:
    return SettingsError("AW-SET-07", message, where=ErrorLocation(str(path)), hint=hint)


def _private_folder(folder: Path) -> Path:
    """Create a private folder in a place where every user may write. Raises PermissionError if another user owns it."""
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.lstat().st_uid != os.getuid():  # not stat: a link of another user may point at our folder
        raise PermissionError(1, "belongs to another user", str(folder))
    return folder


def open_private(path: Path, mode: str) -> BinaryIO:
    """Open a binary file; if it is created, only this user may read it, whatever the umask."""
    return cast(BinaryIO, open(path, mode, opener=lambda name, flags: os.open(name, flags, 0o600)))


def write_atomic(path: Path, data: bytes | Iterator[bytes], *, mode: int = 0o600) -> None:
    """Write a temporary file and rename it to `path`: a crash leaves the old or the new file, never a part of it.

    `data`: the bytes, or an iterator of their pieces. A device, pipe or socket is written to directly: a rename would
    replace it.
    """
    # Buffers of other libraries are iterable too, and give numbers.
    pieces = data if isinstance(data, Iterator) else (data,)
    if path.exists() and not path.is_file():
        with open(path, "wb") as device:
            device.writelines(pieces)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, mode)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def create_secret(path: Path, length: int) -> None:
    """Write `length` random bytes to `path`, readable by this user only; an existing file stays as it is."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(length))
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):  # another process was first
            os.link(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    write_atomic(path, msgspec.json.format(msgspec.json.encode(value)))
