"""The databases of a home: are they whole, does the pepper belong to their keys, is the audit log intact."""

import subprocess
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

import msgspec

from archwright.access.api_keys import check_keys
from archwright.access.audit_log import read_entries
from archwright.access.tables import KEYS
from archwright.contract.diagnosis import DoctorCheck
from archwright.diagnosis.check_results import make_failure, make_ok, make_unknown, make_warning
from archwright.diagnosis.served_gateways import SettingsInForce
from archwright.home import Home
from archwright.python_process import build_module_command
from archwright.settings import child_environment
from archwright.sqlite_files import find_damage
from archwright.store import Store

STORE, PEPPER, AUDIT, SECOND_PLACE = "database", "pepper", "audit log", "second place"
CATALOG = "lake/catalog.db"
NOT_COVERED = "AW-STO-23"
RESTORE_HINT = "stop the platform, keep the damaged files, and restore the newest backup: archwright restore --into DIR"


class _VerificationResult(msgspec.Struct):
    """The fields of `audit verify --json` that are shown."""

    records: int
    second_place: str = ""
    warning: str = ""


class _VerificationError(msgspec.Struct):
    code: str
    message: str
    hint: str = ""


class HomeDatabases:
    """The databases of a home, as the running gateway or the settings name them."""

    def __init__(self, home: Home, in_force: SettingsInForce) -> None:
        self._home = home
        self._in_force = in_force
        self._url = in_force.database_url or f"sqlite:///{home.root / 'archwright.db'}"

    @property
    def is_reachable(self) -> bool:
        """False if there is no database yet, or if only the gateway knows it."""
        file = self._find_file()
        return not self._in_force.problem and (file is None or file.exists())

    def check_files(self) -> DoctorCheck:
        """Let SQLite read every page; of PostgreSQL, read a table."""
        if self._in_force.problem:
            hint = "run doctor with the variables of the gateway's service"
            return make_unknown(STORE, self._in_force.problem, hint)
        file = self._find_file()
        if file is None:
            with closing(Store(self._url)) as store:
                store.newest_seq(KEYS)
            return make_ok(STORE, "PostgreSQL answers; its own tool checks its files: pg_amcheck")
        catalog = self._home.root / CATALOG
        files = [path for path in (file, catalog) if path.exists()]
        for path in files:
            damage = find_damage(path)
            if damage:
                return make_failure(STORE, f"{path} is damaged: {damage}", RESTORE_HINT)
        return make_ok(STORE, f"{len(files)} file(s) of SQLite are whole" if files else "there is no database yet")

    def check_pepper(self) -> DoctorCheck:
        if not self.is_reachable:
            return self._skip(PEPPER)
        with closing(Store(self._url)) as store:
            number = check_keys(self._home, store)
        return make_ok(PEPPER, f"it verifies {number:,} row(s) of keys" if number else "there are no keys yet")

    def find_newest_record_time(self) -> float | None:
        """Return when the newest audit record was written."""
        if not self.is_reachable:
            return None
        with closing(Store(self._url)) as store:
            newest = read_entries(store, self._home, limit=1)
        return newest[0].at if newest else None

    def check_audit_log(self) -> list[DoctorCheck]:
        """Run `audit verify` with the settings of the gateway: the log, and its second place."""
        if not self.is_reachable:
            return [self._skip(AUDIT), self._skip(SECOND_PLACE)]
        run = subprocess.run(
            build_module_command("archwright", "audit", "verify", "--json"),
            cwd=self._home.root,
            env=child_environment(self._in_force.list_variables()),
            capture_output=True,
            check=False,
        )
        error = _read_error(run.stderr) if run.returncode else None
        if error is not None and error.code != NOT_COVERED:
            return [make_failure(AUDIT, f"{error.code}  {error.message}", error.hint)]
        result = msgspec.json.decode(run.stdout, type=_VerificationResult)
        intact = make_ok(AUDIT, f"the chain is whole: {result.records:,} record(s)")
        if error is not None:
            return [intact, make_warning(SECOND_PLACE, error.message, error.hint)]
        seen = "; ".join(filter(None, (result.second_place, result.warning)))
        return [intact, make_ok(SECOND_PLACE, seen)]

    def _find_file(self) -> Path | None:
        """Return the file of SQLite; None for a database of a server."""
        parts = urlsplit(self._url)
        return Path(unquote(parts.path.removeprefix("/"))) if parts.scheme == "sqlite" else None

    def _skip(self, name: str) -> DoctorCheck:
        if self._in_force.problem:
            return make_unknown(name, self._in_force.problem)
        return make_ok(name, "there is no database yet")


def _read_error(output: bytes) -> _VerificationError:
    """Return the error at the end of the output, after notes."""
    start = output.find(b"{")
    return msgspec.json.decode(output[start:] if start >= 0 else b"", type=_VerificationError)
