"""Checkpoints of a run: the last two are kept, and the newest undamaged checkpoint is restored."""

import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from archwright.training import atomic_directory

KEPT_CHECKPOINTS = 2
FOLDER_NAME = re.compile(r"step-(\d{8})")


class RestoredCheckpoint(NamedTuple):
    step: int
    files: dict[str, bytes]


class CheckpointManager(Protocol):
    """Every worker calls both methods; only the worker that writes calls `files`."""

    def newest(self) -> RestoredCheckpoint | None: ...

    def save(self, step: int, files: Callable[[], Mapping[str, bytes]]) -> None: ...


class LocalCheckpointManager:
    """Checkpoints in a folder. `warn` is called for every damaged checkpoint."""

    def __init__(self, folder: Path, warn: Callable[[str], None]) -> None:
        self._folder = folder
        self._warn = warn

    def newest(self) -> RestoredCheckpoint | None:
        found = self._list_checkpoints()
        for step, folder in reversed(found):
            try:
                return RestoredCheckpoint(step, atomic_directory.read_files(folder))
            except ValueError as error:
                self._warn(f"the checkpoint of step {step} is skipped: {error}")
        if found:
            self._warn("all checkpoints are damaged: the run starts again from its first step")
        return None

    def save(self, step: int, files: Callable[[], Mapping[str, bytes]]) -> None:
        """Raises OperateError AW-OPS-01 if the disk is full; earlier checkpoints stay."""
        atomic_directory.write_files(self._folder / f"step-{step:08d}", files())
        for _, old in self._list_checkpoints()[:-KEPT_CHECKPOINTS]:
            shutil.rmtree(old, ignore_errors=True)

    def _list_checkpoints(self) -> list[tuple[int, Path]]:
        if not self._folder.is_dir():
            return []
        named = ((FOLDER_NAME.fullmatch(path.name), path) for path in self._folder.iterdir())
        return sorted((int(match.group(1)), path) for match, path in named if match)
