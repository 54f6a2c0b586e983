"""The jobs that back a rendered platform up: rows of backup_jobs.yaml, which says what their fields are."""

import functools
from pathlib import Path

import msgspec
import yaml

from archwright.contract.record import Record


class BackupJob(Record):
    name: str
    title: str
    options: tuple[str, ...]
    calendar: str
    cron: str
    every_minutes: int
    reason: str
    backup_count: int = 0

    @property
    def file(self) -> str:
        return f"archwright-{self.name}.service"

    @property
    def timer(self) -> str:
        return f"archwright-{self.name}.timer"


@functools.cache
def list_backup_jobs() -> tuple[BackupJob, ...]:
    rows = yaml.load(Path(__file__).with_suffix(".yaml").read_bytes(), yaml.CSafeLoader)
    return msgspec.convert(rows, tuple[BackupJob, ...])
