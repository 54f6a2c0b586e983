"""The checks of `doctor --deep`, in the order in which they are shown."""

import time
from collections.abc import Iterator

from archwright.contract.diagnosis import DoctorCheck
from archwright.diagnosis import backup_age, databases, disk_encryption, engine_sandboxes, gateway_tls, system_clock
from archwright.diagnosis.check_results import run_check, run_checks
from archwright.diagnosis.served_gateways import read_settings_in_force
from archwright.home import Home
from archwright.settings import Settings


def list_deep_checks(home: Home, chosen: Settings) -> Iterator[DoctorCheck]:
    """Yield the results of all checks of a home that this user owns."""
    now = time.time()
    in_force = read_settings_in_force(home, chosen)
    known = databases.HomeDatabases(home, in_force)
    yield run_check(databases.STORE, known.check_files)
    yield run_check(databases.PEPPER, known.check_pepper)
    yield from run_checks(databases.AUDIT, known.check_audit_log)
    yield run_check(system_clock.NAME, lambda: system_clock.check_clock(now, known.find_newest_record_time()))
    yield from run_checks(
        gateway_tls.NAME, lambda: gateway_tls.check_tls(in_force.gateways, chosen.tls_certificate, now)
    )
    yield from run_checks(backup_age.BACKUP, lambda: backup_age.check_backups(home, chosen.backup_to, now))
    yield run_check(disk_encryption.NAME, lambda: disk_encryption.check_disk_encryption(home.root))
    yield from run_checks(
        engine_sandboxes.NAME, lambda: engine_sandboxes.check_engine_sandboxes(home, in_force.gateways)
    )


def list_secret_files(chosen: Settings) -> Iterator[str]:
    """Yield the files outside the home that must be closed to other users."""
    kind, _, path = chosen.backup_key.partition(":")
    if kind == "file":
        yield path
    if chosen.tls_key:
        yield chosen.tls_key
