"""How old the newest backup and the newest successful drill are."""

from collections.abc import Sequence

from archwright.backup.creation import read_last_place
from archwright.backup.drill import read_drills
from archwright.backup.repository import list_backup_ids, read_backup_time
from archwright.backup.storage import open_storage
from archwright.contract.backup import DrillRecord
from archwright.contract.diagnosis import DoctorCheck
from archwright.diagnosis.check_results import make_failure, make_ok, make_warning
from archwright.home import Home

BACKUP, DRILL = "backup", "drill"
HOUR_S, DAY_S = 3_600.0, 86_400.0
# A backup is made daily and a drill monthly, each with some room for one that is late.
OLD_BACKUP_S, LOST_BACKUP_S, OLD_DRILL_S = 36 * HOUR_S, 7 * DAY_S, 35 * DAY_S
SET_UP_HINT = "set backup_to and backup_key in archwright.toml of the home, then run daily: archwright backup --keep 30"
BACKUP_HINT = "archwright backup; and look why the daily one did not run"
DRILL_HINT = "archwright backup --drill"


def check_backups(home: Home, stated_place: str, now: float) -> list[DoctorCheck]:
    """`stated_place`: of the settings; empty for the place of the last backup of this home."""
    place = stated_place or read_last_place(home)
    if not place:
        return [make_warning(BACKUP, "this home has no backup, and no place for backups is set", SET_UP_HINT)]
    ids = list_backup_ids(open_storage(place))
    if not ids:
        return [make_failure(BACKUP, f"there is no backup at {place}", "archwright backup")]
    return [_assess_backup(place, now - read_backup_time(ids[-1]), len(ids)), _assess_drills(read_drills(home), now)]


def _assess_backup(place: str, age_s: float, number: int) -> DoctorCheck:
    seen = f"the newest of {number} backups at {place} is {_format_age(age_s)} old"
    if age_s > LOST_BACKUP_S:
        return make_failure(BACKUP, seen, BACKUP_HINT)
    if age_s > OLD_BACKUP_S:
        return make_warning(BACKUP, seen, BACKUP_HINT)
    return make_ok(BACKUP, seen)


def _assess_drills(drills: Sequence[DrillRecord], now: float) -> DoctorCheck:
    if not drills:
        return make_warning(DRILL, "no backup of this home was ever restored in a drill", DRILL_HINT)
    newest = drills[-1]
    age = _format_age(now - newest.at)
    if not newest.passed:
        return make_failure(DRILL, f"the drill {age} ago failed: {newest.error}", DRILL_HINT)
    seen = f"the drill {age} ago passed: RPO {newest.rpo_s:,.0f} s, RTO {newest.rto_s:,.0f} s"
    return make_warning(DRILL, seen, DRILL_HINT) if now - newest.at > OLD_DRILL_S else make_ok(DRILL, seen)


def _format_age(age_s: float) -> str:
    return f"{age_s / DAY_S:,.0f} days" if age_s >= 2 * DAY_S else f"{age_s / HOUR_S:,.1f} hours"
