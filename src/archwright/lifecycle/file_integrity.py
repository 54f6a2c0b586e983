"""Checks the files of a model version against their registered digests, restores them from its run, and copies them."""

import shutil
from pathlib import Path

from archwright.contract.lineage import ModelVersion
from archwright.engines.model_files import compute_digest
from archwright.errors import ErrorLocation, ModelError, UsageError, from_os_error
from archwright.home import Home
from archwright.lifecycle import model_registry
from archwright.store import Store
from archwright.training import run_execution, training_runs


def restore_files(store: Store, home: Home, model: ModelVersion) -> None:
    """Restore missing files from the run of a version, which gives the same bytes.

    Raises what `check_files` and `model_registry.register_model` raise, and TrainError AW-TRN-20 or -22 (no run).
    """
    if model_registry.find_missing_file(home, model) is not None:
        run, result = training_runs.find_run(store, model.run), run_execution.read_result(home, model.run)
        model_registry.register_model(store, home, run, result)
    check_files(home, model)


def check_files(home: Home, model: ModelVersion) -> None:
    """Compare the digests of the files. Raises ModelError AW-MOD-23 if a file is missing or altered."""
    for path, sha256 in model_registry.locate_files(home, model).items():
        try:
            found = compute_digest(path)
        except OSError as error:
            raise from_os_error(error) from error
        if not path.exists():
            raise _damage_error(model, path, "is missing")
        if found != sha256:
            state = f"was altered (SHA-256 {found[:12]}, registered {sha256[:12]})"
            raise _damage_error(model, path, state, first="remove it, then ")


def export_files(home: Home, model: ModelVersion, target: Path) -> dict[str, str]:
    """Copy the files of a version into the folder `target`, new or empty: name -> SHA-256.

    Raises ModelError AW-MOD-23 (a file is missing or altered), UsageError AW-USE-02 (the folder holds files).
    """
    check_files(home, model)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        hint = "choose an empty folder"
        raise UsageError("AW-USE-02", f"{target} exists already", where=ErrorLocation(str(target)), hint=hint)
    digests = dict[str, str]()
    try:
        target.mkdir(parents=True, exist_ok=True)
        for path in model_registry.locate_files(home, model):
            if path.is_dir():
                shutil.copytree(path, target, dirs_exist_ok=True)
            else:
                shutil.copyfile(path, target / f"{model.name}.{model.format}")
        for path in sorted(target.iterdir()):
            digests[path.name] = compute_digest(path)
    except OSError as error:
        raise from_os_error(error) from error
    return digests


def _damage_error(model: ModelVersion, path: Path, state: str, *, first: str = "") -> ModelError:
    hint = f"{first}run `archwright models evaluate {model.id}`, which restores it from its run"
    return ModelError("AW-MOD-23", f"the file of {model.id} {state}", where=ErrorLocation(str(path)), hint=hint)
