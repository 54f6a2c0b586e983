"""Memory of the platform's processes and disk space of its files."""

import re
import resource
from collections.abc import Iterable
from pathlib import Path

from archwright.contract.plan import ProcessSpec
from archwright.engines.engine_config import find_model_files
from archwright.home import Home

_PSS = re.compile(rb"^Pss:\s+(\d+) kB", re.MULTILINE)


def memory_bytes(pids: Iterable[int]) -> int | None:
    """Return the sum of proportional set sizes (a page of k processes counts 1/k); None if the system has none.

    The whole resident set counts for a process of another user, whose shares only root may read.
    """
    known = [size for pid in pids if (size := _pss_bytes(pid)) is not None]
    return sum(known) if known else None


def _pss_bytes(pid: int) -> int | None:
    try:
        found = _PSS.search(Path(f"/proc/{pid}/smaps_rollup").read_bytes())
    except PermissionError:
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()
    except OSError:
        return None
    return int(found.group(1)) * 1024 if found else None


def disk_bytes(home: Home, processes: Iterable[ProcessSpec], models: Home) -> int:
    """Return the bytes of these processes' files: models (in the home `models`), store, logs and run files."""
    files = list({path for process in processes for path in find_model_files(process.config, models)})
    files += [p for p in home.root.glob("archwright.db*") if p.is_file()]
    for folder in (home.folder("logs"), home.folder("run")):
        files += [p for p in folder.iterdir() if p.is_file()]
    return sum(_file_size(path) for path in files)


def _file_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
