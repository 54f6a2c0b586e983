"""Erasure of persons, and their receipts."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

from archwright.access.audit_checkpoints import read_signing_key
from archwright.api.context import open_home, record_read, write_audit_record
from archwright.contract.record import Record
from archwright.lake.erasure import erasure
from archwright.lake.erasure.erasure import ErasureOutcome, ErasureRequest
from archwright.lake.erasure.receipt import ErasureReceipt, TrainedModel, verify_receipt
from archwright.lifecycle import model_registry
from archwright.store import Store
from archwright.training import training_runs


class CheckedReceipt(Record):
    """A receipt that a stated key signed; `own_key`: the key of this home."""

    receipt: ErasureReceipt
    own_key: bool


def erase_person(subject: tuple[str, ...], dry_run: bool, expect_rows: int | None) -> ErasureOutcome:
    if dry_run:
        record_read("data.erase.plan")
    with open_home() as (_settings, home, store):
        request = ErasureRequest(
            identifiers=subject,
            dry_run=dry_run,
            expect_rows=expect_rows,
            list_models=partial(_list_models, store),
            on_erased=lambda receipt: write_audit_record(store, "data.erase", receipt),
        )
        return erasure.erase_subject(home, store, request)


def check_receipt(file: str, public_keys: tuple[str, ...]) -> CheckedReceipt:
    with open_home() as (_settings, home, _store):
        own = read_signing_key(home)
        own_keys = (own.public_key,) if own is not None else ()
        receipt = verify_receipt(Path(file), public_keys or own_keys)
        return CheckedReceipt(receipt=receipt, own_key=receipt.public_key in own_keys)


def _list_models(store: Store, versions: Iterable[str]) -> tuple[TrainedModel, ...]:
    """The runs on the versions, each with its model version, and what the user must do."""
    held = set(versions)
    serving = {model.id: endpoint for endpoint, model in model_registry.production_versions(store).items()}
    models = {model.run: model.id for model in model_registry.list_models(store) if model.dataset_version in held}
    found = []
    for run in training_runs.list_runs(store):
        if run.dataset_version not in held:
            continue
        model = models.get(run.id, "")
        follow_up = f"train again from {run.dataset_version}: archwright train SPEC"
        if model in serving:
            follow_up += f", then: archwright models promote; {serving[model]} serves this version now"
        found.append(
            TrainedModel(
                run=run.id,
                model=model,
                dataset_version=run.dataset_version,
                serving=model in serving,
                follow_up=follow_up,
            )
        )
    return tuple(found)
