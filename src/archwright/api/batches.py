"""Batches of the gateway's clients: `batches list`, `batches show`, `batches cancel`, `batches delete`.

They work on the files of this home, with or without a running gateway.
"""

from contextlib import closing
from difflib import get_close_matches

from archwright.api.context import audit_read, open_audited_home, open_home
from archwright.contract.record import Record
from archwright.errors import UsageError, argument_error
from archwright.home import Home
from archwright.serving.batches.batch_store import (
    OPEN_STATUSES,
    Batch,
    BatchStore,
    StoredBatch,
    list_batches,
)
from archwright.serving.batches.locked_batch import LockedBatch


class BatchView(Record):
    """A batch. `stored_bytes`: of its input, its results and what it needs while it runs. `reason`: why it failed."""

    id: str
    tenant: str
    status: str
    created_at: float
    total: int
    completed: int
    failed: int
    stored_bytes: int
    key_id: str
    reason: str


class BatchDetails(Record):
    """A batch with its files. `ends_at`: when it ends at the latest, None if it has ended."""

    batch: BatchView
    endpoint: str
    ends_at: float | None
    input_file_id: str
    output_file_id: str | None
    error_file_id: str | None
    errors: tuple[str, ...]


class BatchDeletion(Record):
    """The files that were deleted; with `dry_run`, those to delete."""

    id: str
    tenant: str
    files: tuple[str, ...]
    freed_bytes: int
    dry_run: bool


@audit_read("batches.list")
def list(*, tenant: str | None = None) -> tuple[BatchView, ...]:  # noqa: A001 - the verb's name
    """Return the batches of all tenants, or of one, the oldest first."""
    with open_home() as (_settings, home, _store):
        found = [one for one in list_batches(home) if tenant in (None, one[0])]
        return tuple(_build_view(home, *one) for one in found)


@audit_read("batches.show", "id")
def show(id: str) -> BatchDetails:  # noqa: A002 - the record's field
    """Raises UsageError AW-USE-95 if there is no such batch."""
    with open_home() as (_settings, home, _store):
        tenant, batch = _find_batch(home, id)
        shown = BatchStore(home, tenant).find_batch(id)
        return BatchDetails(
            batch=_build_view(home, tenant, batch),
            endpoint=shown.endpoint,
            ends_at=float(shown.expires_at) if batch.status in OPEN_STATUSES else None,
            input_file_id=shown.input_file_id,
            output_file_id=shown.output_file_id,
            error_file_id=shown.error_file_id,
            errors=_describe_errors(shown),
        )


def cancel(id: str) -> BatchView:  # noqa: A002 - the record's field
    """Begin no further line of a batch; a running gateway then ends it. Raises UsageError AW-USE-95 and AW-USE-96."""
    with open_audited_home() as (home, record_act):
        tenant, batch = _find_batch(home, id)
        if batch.status not in OPEN_STATUSES:
            hint = f"to remove its results, run archwright batches delete {id}"
            raise argument_error("AW-USE-96", f"the batch {id} has ended ({batch.status})", "id", hint)
        BatchStore(home, tenant).cancel_batch(id)
        record_act("batches.cancel", id, tenant)
        return _build_view(home, tenant, batch)


def delete(id: str, *, dry_run: bool = False) -> BatchDeletion:  # noqa: A002 - the record's field
    """Delete a batch with its results, and its input unless another batch reads it.

    Raises UsageError AW-USE-95, and AW-USE-97 while a gateway runs the batch."""
    with open_audited_home() as (home, record_act):
        tenant, batch = _find_batch(home, id)
        store = BatchStore(home, tenant)
        if batch.status in OPEN_STATUSES:
            try:
                with closing(LockedBatch(home, tenant, id)):
                    deletion = _delete_files(store, batch, dry_run=dry_run)
            except BlockingIOError:
                hint = f"run archwright batches cancel {id} first"
                raise argument_error("AW-USE-97", f"a gateway runs the batch {id}", "id", hint) from None
        else:
            deletion = _delete_files(store, batch, dry_run=dry_run)
        record_act("batches.delete.plan" if dry_run else "batches.delete", id, tenant)
        return deletion


def _delete_files(store: BatchStore, batch: StoredBatch, *, dry_run: bool) -> BatchDeletion:
    paths = store.list_paths(batch)
    freed_bytes = sum(path.stat().st_size for path in paths)
    if not dry_run:
        for path in paths:
            path.unlink(missing_ok=True)
    names = tuple(path.name for path in paths)
    return BatchDeletion(id=batch.id, tenant=store.tenant, files=names, freed_bytes=freed_bytes, dry_run=dry_run)


def _find_batch(home: Home, name: str) -> tuple[str, StoredBatch]:
    known = {batch.id: (tenant, batch) for tenant, batch in list_batches(home)}
    if name in known:
        return known[name]
    near = tuple(get_close_matches(name, known))
    hint = f"nearest: {', '.join(near)}" if near else "list the batches with archwright batches list"
    error: UsageError = argument_error("AW-USE-95", f"this home has no batch {name!r}", "id", hint, near)
    raise error


def _build_view(home: Home, tenant: str, batch: StoredBatch) -> BatchView:
    store = BatchStore(home, tenant)
    shown = store.find_batch(batch.id)
    counts = shown.request_counts or {}
    return BatchView(
        id=batch.id,
        tenant=tenant,
        status=shown.status,
        created_at=float(batch.created_at),
        total=counts.get("total", 0),
        completed=counts.get("completed", 0),
        failed=counts.get("failed", 0),
        stored_bytes=sum(path.stat().st_size for path in store.list_paths(batch)),
        key_id=batch.key_id,
        reason=shown.errors.data[0].code if shown.errors else "",
    )


def _describe_errors(batch: Batch) -> tuple[str, ...]:
    errors = batch.errors.data if batch.errors else ()
    return tuple(f"{one.code}: {one.message}" for one in errors)
