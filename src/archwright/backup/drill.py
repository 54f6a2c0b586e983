"""A drill: restores the newest backup to a scratch home, starts it, checks it, and records the result.

Settings of the home (`archwright.toml`) are removed from the scratch home: a drill must reach neither the database nor
the second place nor the recipients of alerts of the home in force.
"""

import hashlib
import json
import os
import random
import shutil
import subprocess
import time
from contextlib import AbstractContextManager, nullcontext
from http import HTTPStatus
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from archwright.backup.file_copy import digest_file
from archwright.backup.home_database import HomeDatabase, PostgresDatabase
from archwright.backup.manifest import BackupFile, BackupManifest
from archwright.backup.repository import BackupRepository
from archwright.backup.restoration import restore_backup
from archwright.backup.scratch_platform import failed_drill, isolate_environment, run_platform
from archwright.contract.backup import DrillRecord
from archwright.contract.record import replace
from archwright.errors import ArchwrightError
from archwright.home import Home, open_private
from archwright.journal import report_step
from archwright.python_process import build_module_command
from archwright.settings import FILE

SCRATCH_PREFIX = "scratch-"
SAMPLE_FILES = 20
RECORDS_FILE = "drills.jsonl"
# Files that no process changes after they are written, so that their digests still hold when the gateway has run.
LASTING_FOLDERS = ("models/", "lake/tables/", "lake/indexes/")
REWRITTEN_FOLDER = "/metadata/"


def run_drill(
    home: Home, repository: BackupRepository, database: HomeDatabase, model: str | None = None
) -> DrillRecord:
    """Restore the newest backup and check it. The caller holds the lock of the home's backups.

    Each result is recorded in the home. Raises the error of the step that failed: OperateError AW-OPS-82 (damaged),
    AW-OPS-83 (no backup), AW-OPS-87 (the restored platform fails)."""
    _remove_left_homes(home)
    ids = repository.list_ids()
    at = time.time()
    record = DrillRecord(backup=ids[-1] if ids else "", at=at, passed=False, rpo_s=0.0, engine=model or "null")
    try:
        manifest = repository.find_newest()
        record = replace(
            record,
            rpo_s=at - manifest.at,
            files=len(manifest.files),
            size_bytes=manifest.size_bytes,
            manifest_sha256=hashlib.sha256(msgspec.json.encode(manifest)).hexdigest(),
        )
        with (
            TemporaryDirectory(dir=home.backups, prefix=SCRATCH_PREFIX) as folder,
            _create_database(manifest, database) as url,
        ):
            record = _Drill(repository, manifest, Home(Path(folder) / "home"), url).run(record, model)
    except ArchwrightError as error:
        _append_record(home, replace(record, error=f"{error.code}  {error.message}"))
        raise
    _append_record(home, record)
    return record


def read_drills(home: Home) -> tuple[DrillRecord, ...]:
    """The recorded drills, oldest first."""
    path = home.backups / RECORDS_FILE
    if not path.exists():
        return ()
    return tuple(msgspec.json.decode(line, type=DrillRecord) for line in path.read_bytes().splitlines())


def _create_database(manifest: BackupManifest, database: HomeDatabase) -> AbstractContextManager[str]:
    """A scratch database for a dump; nothing for a file, which the backup holds."""
    if not manifest.has_dump:
        return nullcontext("")
    if not isinstance(database, PostgresDatabase):
        raise failed_drill("the database of the backup is of PostgreSQL, and database_url names no server")
    return database.create_scratch()


class _Drill:
    """One restoration of a backup to a scratch home."""

    def __init__(self, repository: BackupRepository, manifest: BackupManifest, home: Home, database_url: str) -> None:
        self._repository = repository
        self._manifest = manifest
        self._home = home
        self._database_url = database_url

    def run(self, record: DrillRecord, model: str | None) -> DrillRecord:
        started = time.monotonic()
        restore_backup(self._repository, self._manifest, self._home.root, self._database_url)
        (self._home.root / FILE).unlink(missing_ok=True)
        report_step("starting the restored home")
        with run_platform(self._home, model, self._database_url) as platform:
            keys = self._manifest.drill
            answer = platform.send_chat(keys.valid)
            rto_s = time.monotonic() - started
            if answer.status != HTTPStatus.OK or "choices" not in answer.text:
                raise failed_drill(f"an old key gets status {answer.status} instead of an answer", answer.text[:200])
            refusal = platform.send_chat(keys.revoked)
            if refusal.status != HTTPStatus.UNAUTHORIZED:
                raise failed_drill(f"a revoked key gets status {refusal.status} instead of 401")
        report_step("verifying the audit log and a sample of files")
        audit_records = self._verify_audit_log()
        sampled = self._verify_sample()
        return replace(record, passed=True, rto_s=rto_s, audit_records=audit_records, sampled=sampled)

    def _verify_audit_log(self) -> int:
        """Verify chain, checkpoints and signed keys by the public verb; return the number of records."""
        run = subprocess.run(
            build_module_command("archwright", "audit", "verify", "--json"),
            cwd=self._home.root,
            env=isolate_environment(self._home, self._database_url),
            capture_output=True,
            check=False,
        )
        if run.returncode:
            raise failed_drill("the audit log is not intact", run.stderr.decode("utf-8", "replace")[:300])
        return int(json.loads(run.stdout)["records"])

    def _verify_sample(self) -> int:
        """Read a random sample of files from the disk again; return their number."""
        lasting = [file for file in self._manifest.files if _is_lasting(file)]
        sample = random.SystemRandom().sample(lasting, min(SAMPLE_FILES, len(lasting)))
        for file in sample:
            if digest_file(self._home.root / file.path) != file.sha256:
                raise failed_drill(f"a restored file has another digest than in the manifest: {file.path}")
        return len(sample)


def _is_lasting(file: BackupFile) -> bool:
    return file.path.startswith(LASTING_FOLDERS) and REWRITTEN_FOLDER not in file.path


def _remove_left_homes(home: Home) -> None:
    """Remove the scratch homes of killed drills."""
    for folder in home.backups.glob(f"{SCRATCH_PREFIX}*"):
        shutil.rmtree(folder)


def _append_record(home: Home, record: DrillRecord) -> None:
    with open_private(home.backups / RECORDS_FILE, "ab") as file:
        file.write(msgspec.json.encode(record) + b"\n")
        file.flush()
        os.fsync(file.fileno())
