"""The home: the one place that knows paths. Nothing is created before something is written there."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

import msgspec

from archwright.errors import ErrorLocation, SettingsError
from archwright.settings import Settings

# Linux allows 107 bytes for a Unix socket's path; macOS 103.
SOCKET_PATH_LIMIT = 100


class Home:
    """Paths below `root`, computed on access; folders are private to the user (0700)."""

    def __init__(self, root: str | Path) -> None:
        """Raises SettingsError AW-SET-04 for a `~name` that nobody has."""
        try:
            self.root = Path(root).expanduser().absolute()
        except RuntimeError as error:
            raise SettingsError(
                "AW-SET-04", f"no such home: {root}", where=ErrorLocation(field="home"), hint="give a full path"
            ) from error

    def folder(self, *parts: str) -> Path:
        """The folder, made when it is not there: one by one, since `parents=True` would leave those above readable."""
        path = self.root
        if not path.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir(exist_ok=True, mode=0o700)
        for part in parts:
            path = path / part
            path.mkdir(exist_ok=True, mode=0o700)
        return path

    @property
    def store_url(self) -> str:
        return f"sqlite:///{self.folder() / 'archwright.db'}"

    @property
    def pepper(self) -> Path:
        """The secret that keys are hashed with."""
        return self.folder("secrets") / "pepper"

    def model(self, sha256: str, form: str = "gguf") -> Path:
        """A model file (base, adapter, classifier) under its digest; `form` is gguf, onnx or safetensors."""
        return self.folder("models") / f"{sha256}.{form}"

    def dequantised_base(self, sha256: str) -> Path:
        """The dequantised twin of a quantised base model, made once for training by whoever needs it first."""
        return self.folder("models", "bases") / sha256

    @property
    def lake(self) -> Path:
        """The data lake: catalog, tables, cards."""
        return self.folder("lake")

    def run(self, run: str) -> Path:
        """Everything a training run writes: spec, progress, checkpoints, log, result."""
        return self.folder("runs", run)

    def worker_group(self, run: str) -> Path:
        """What the workers of a run tell each other and whoever started them."""
        return self.folder("runs", run, "crew")

    def ray_session(self, run: str) -> Path:
        """Where a Ray started for a run keeps its sessions: not in the home, its Unix sockets are 65 bytes longer."""
        name = hashlib.sha256(os.fsencode(self.root / run)).hexdigest()[:12]
        return _private_folder(Path(tempfile.gettempdir()) / f"aw-{name}")

    @property
    def ray_token(self) -> Path:
        """What lets into a Ray that was started here."""
        return self.folder("secrets") / "ray-token"

    @property
    def machine_facts(self) -> Path:
        """The probe's result: the measured layer of the catalog. Its folder is made by the probe, not by a reader."""
        return self.root / "measured" / "machine.json"

    @property
    def catalog_overlay(self) -> Path:
        """The user's own facts, laid over the shipped catalog; optional."""
        return self.root / "catalog" / "user.yaml"

    @property
    def catalog_refreshed(self) -> Path:
        """What `catalog refresh` brought: one file per generation. Its folder is made by the refresh."""
        return self.root / "catalog" / "refreshed"

    @property
    def write_ahead_log(self) -> Path:
        """What was written down and is not in the store yet."""
        return self.folder("ledger")

    @property
    def counters(self) -> Path:
        """The gateway's counters, a file for each process that serves."""
        return self.folder("run", "counters")

    @property
    def plan(self) -> Path:
        """The plan the platform was last brought up with."""
        return self.folder("run") / "plan.json"

    @property
    def state(self) -> Path:
        return self.folder("run") / "state.json"

    @property
    def lock(self) -> Path:
        return self.folder("run") / "supervisor.lock"

    @property
    def shared_tables(self) -> Path:
        """What the worker processes of this machine share."""
        return self.folder("run", "slates")

    def config(self, process: str) -> Path:
        return self.folder("run") / f"{process}.json"

    def log(self, process: str) -> Path:
        return self.folder("logs") / f"{process}.log"

    def socket(self, process: str) -> Path:
        """A Unix socket for `process`; beside the home's temporary twin when the home's path is too long."""
        path = self.folder("run") / f"{process}.sock"
        if len(os.fsencode(path)) <= SOCKET_PATH_LIMIT:
            return path
        name = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:16]
        return _private_folder(Path(tempfile.gettempdir()) / f"archwright-{os.getuid()}-{name}") / f"{process}.sock"


def home_of(chosen: Settings) -> Home:
    """The home that the settings in force name."""
    return Home(chosen.home)


def _private_folder(folder: Path) -> Path:
    """A folder of ours where everybody may write."""
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.lstat().st_uid != os.getuid():  # not stat: a link of somebody else's may point at a folder of ours
        raise PermissionError(1, "belongs to another user", str(folder))
    return folder


def write_atomic(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Write beside `path` and rename over it: a crash leaves the old file or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, mode)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: object) -> None:
    """`write_atomic` of the value as JSON that people can read."""
    write_atomic(path, msgspec.json.format(msgspec.json.encode(value)))
