"""Modes of the home, of its secrets, and of the secret files that settings name."""

import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from archwright.contract.diagnosis import DoctorCheck
from archwright.diagnosis.check_results import make_failure, make_ok, make_warning
from archwright.serving.settings.engine_secrets import describe_exposure
from archwright.store import SQLITE_SUFFIXES

NAME = "modes"
OPEN_BITS = stat.S_IRWXG | stat.S_IRWXO
SECRET_FOLDERS = ("secrets", "audit")
DATABASES = ("archwright.db", "lake/catalog.db")


def check_modes(root: Path, secret_files: Iterable[str] = ()) -> DoctorCheck:
    """Check that no other user reads the home or a secret file. Call it before a command corrects the modes.

    `secret_files`: full paths outside of the home, such as the key of a certificate. Other files of the home may be
    open to a group, because nobody reaches them through a closed home; engines share model files in that way."""
    for name in secret_files:
        exposure = _describe_exposure(Path(name))
        if exposure:
            hint = f"chmod 0600 {name}; then replace the key, if another user may have it"
            return make_failure(NAME, f"{name} {exposure}", hint)
    if not root.is_dir():
        return make_ok(NAME, "there is no home yet")
    if _is_open(root):
        mode = stat.S_IMODE(root.stat().st_mode)
        hint = f"chmod -R go= {root}; then create new secrets, if another user may have them: archwright key rotate ID"
        return make_failure(NAME, f"other users could read {root}: its mode was {mode:04o}", hint)
    inner = [path for path in _list_secrets(root) if _is_open(path)]
    if inner:
        detail = f"{len(inner)} secret files have open modes in a closed home, such as {inner[0]}"
        return make_warning(NAME, detail, f"chmod -R go= {root}")
    return make_ok(NAME, f"only its owner reads {root}")


def _describe_exposure(path: Path) -> str:
    try:
        return describe_exposure(path.stat())
    except OSError:  # absent, or below a folder of another user
        return ""


def _is_open(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & OPEN_BITS)
    except OSError:  # absent, or below a folder of another user
        return False


def _list_secrets(root: Path) -> Iterator[Path]:
    for name in SECRET_FOLDERS:
        folder = root / name
        if folder.is_dir():
            yield folder
            yield from folder.iterdir()
    for name in DATABASES:
        yield from (root / f"{name}{suffix}" for suffix in SQLITE_SUFFIXES)
