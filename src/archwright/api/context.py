"""The settings, home, store and keys that public functions share."""

import inspect
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from functools import partial, wraps
from typing import Literal, ParamSpec, TypeVar

from archwright import settings
from archwright.access.accounts import has_accounts_table, open_accounts_table
from archwright.access.api_keys import KeyStore, load_pepper
from archwright.access.audit_checkpoints import CheckpointWriter
from archwright.access.audit_delivery.outbox import open_outbox
from archwright.access.audit_delivery.places import STDOUT, select_addresses
from archwright.access.audit_log import AuditEvent, AuditLog
from archwright.access.tables import NAME_PATTERN
from archwright.errors import ArchwrightError, boundary
from archwright.home import Home, locate_home
from archwright.monitor.user_names import ensure_user_id
from archwright.monitor.wal.disk_reserve import ACT_SEGMENT_BYTES, release_reserve
from archwright.monitor.wal.writer import WalWriter
from archwright.settings import Settings
from archwright.store import Store

P = ParamSpec("P")
R = TypeVar("R")
ReadOutcome = Literal["done", "failed"]
# A command waits so long for the places of the audit log; the next process delivers the rest.
DELIVERY_LIMIT_S = 10.0


def store_url(chosen: Settings) -> str:
    return chosen.database_url or locate_home(chosen).store_url


def describe_second_place(chosen: Settings, covered: int | None = None) -> str:
    """Return where a copy of the checkpoints is, with the records that it covers if they are known."""
    if not chosen.audit_checkpoints and not covered:
        return 'none, by audit_second_place = "none"' if chosen.audit_second_place == "none" else "none"
    place = chosen.audit_checkpoints or "the given file"
    return place if covered is None else f"{place}, {covered:,} records"


@contextmanager
def open_home(flags: Mapping[str, object] | None = None) -> Iterator[tuple[Settings, Home, Store]]:
    """Yield the settings, the home and an open store."""
    chosen = settings.load(flags)
    with closing(Store(store_url(chosen))) as store:
        yield chosen, locate_home(chosen), store


def write_audit_record(store: Store, action: str, resource: str, tenant: str = "") -> None:
    """Write the audit record of an act by this machine's owner. When this returns, it survives SIGKILL."""
    release_reserve(locate_home(settings.load()))
    with _open_wal(store) as writer:
        _record_event(writer, action, resource, tenant)


def write_owner_record(store: Store, home: Home, action: str, resource: str) -> None:
    """Write the audit record of an act on a home that is not the one in force."""
    with closing(WalWriter(store, home, segment_bytes=ACT_SEGMENT_BYTES)) as writer:
        _record_event(writer, action, resource, "")


def audit_read(action: str, resource: str = "") -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a public function that only reads leave an audit record of each call, before its result is returned.

    `resource`: the parameter that names the object of the read. The log is never rewritten, so it gets no words of a
    search, no file and no name that was not found: a person may stand there. A read that raises an error is "failed".
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @wraps(function)
        def read(*args: P.args, **options: P.kwargs) -> R:
            try:
                result = function(*args, **options)
            except ArchwrightError:
                with suppress(ArchwrightError):  # the error of the function is shown
                    _write_read_record(action, "", "", "failed")
                raise
            stated = signature.bind(*args, **options).arguments
            tenant = str(stated.get("tenant") or "")
            record_read(action, str(stated.get(resource) or ""), tenant if NAME_PATTERN.fullmatch(tenant) else "")
            return result

        return read

    return decorate


def record_read(action: str, resource: str = "", tenant: str = "") -> None:
    """Write the audit record of a read by this machine's owner; without space or rights, say so and go on.

    Design: a user who can read the home can read its files without this program, so a refusal protects nothing. It
    would take the audit log away when the disk is full. The reserve of the disk is left to acts that change something.
    """
    try:
        _write_read_record(action, resource, tenant, "done")
    except ArchwrightError as error:
        print(f"note: the audit log has no record of this read\n{error.lines()}", file=sys.stderr)


def _write_read_record(action: str, resource: str, tenant: str, outcome: ReadOutcome) -> None:
    with boundary("audit record"), open_home() as (_settings, _home, store), _open_wal(store) as writer:
        writer.check_space()
        _record_event(writer, action, resource, tenant, outcome)


@contextmanager
def open_audited_keys() -> Iterator[tuple[KeyStore, Callable[[str, str, str], None]]]:
    """Yield the keys and a function that writes the audit record of an act on them (action, resource, tenant).

    Raises StoreError AW-STO-06 if the disk has no space for the record, before anything is changed.
    """
    with open_keys(for_act=True) as (keys, _home, store), _open_wal(store) as writer:
        writer.check_space()
        yield keys, partial(_record_event, writer)


@contextmanager
def open_audited_home() -> Iterator[tuple[Home, Callable[[str, str, str], None]]]:
    """Yield the home and a function that writes the audit record of an act on it. Raises as for keys."""
    with open_home() as (_chosen, home, store):
        release_reserve(home)
        with _open_wal(store) as writer:
            writer.check_space()
            yield home, partial(_record_event, writer)


@contextmanager
def _open_wal(store: Store) -> Iterator[WalWriter]:
    chosen = settings.load()
    home = locate_home(chosen)
    checkpoints = CheckpointWriter(
        store, home, report=partial(_print_failure, "a checkpoint of the audit log was not written")
    )
    log = WalWriter(store, home, segment_bytes=ACT_SEGMENT_BYTES, on_compaction=checkpoints.write_due)
    with closing(log) as writer:
        yield writer
    report = partial(_print_failure, "a second place of the audit log has no copy yet")
    # Standard output has the result of the command.
    addresses = select_addresses(chosen.audit_checkpoints, excluded=(STDOUT,))
    open_outbox(store, home, addresses, report=report).close(DELIVERY_LIMIT_S)


def _print_failure(what: str, error: ArchwrightError) -> None:
    print(f"note: {what}\n{error.lines()}", file=sys.stderr)


def _record_event(writer: WalWriter, action: str, resource: str, tenant: str, outcome: ReadOutcome = "done") -> None:
    AuditLog(writer).record(
        AuditEvent(
            at=time.time(),
            tenant=tenant,
            key_id="local",
            action=action,
            permission="owner",
            effect="allow",
            resource=resource,
            os_user=ensure_user_id(writer.store, "", settings.read_os_user()),
            outcome=outcome,
        )
    )
    writer.flush()


@contextmanager
def open_keys(*, for_act: bool = False) -> Iterator[tuple[KeyStore, Home, Store]]:
    """Yield the keys, the home and the store. Workers of a gateway see changes through the shared accounts.

    `for_act`: on a full disk, free a part of the disk reserve for what the act writes."""
    with open_home() as (_chosen, home, store):
        if for_act:
            release_reserve(home)
        if not has_accounts_table(home):
            yield KeyStore(store, load_pepper(home, store)), home, store
            return
        with closing(open_accounts_table(home)) as accounts:
            yield KeyStore(store, load_pepper(home, store), table=accounts), home, store
