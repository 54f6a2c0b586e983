"""Checks the file of a model version against its registered digest, and restores it from its run."""

from archwright.contract.lineage import ModelVersion
from archwright.errors import ErrorLocation, ModelError, from_os_error
from archwright.home import Home
from archwright.lifecycle import model_registry
from archwright.store import Store
from archwright.training import run_execution, training_runs
from archwright.training.atomic_directory import compute_digest


def restore_file(store: Store, home: Home, model: ModelVersion) -> None:
    """Restore a missing file from its run, which gives the same bytes.

    Raises what `check_file` and `model_registry.register_model` raise, and TrainError AW-TRN-20 or -22 (no run).
    """
    if not home.model(model.sha256, model.format).exists():
        run, result = training_runs.find_run(store, model.run), run_execution.read_result(home, model.run)
        model_registry.register_model(store, home, run, result)
    check_file(home, model)


def check_file(home: Home, model: ModelVersion) -> None:
    """Compare the digest of the file. Raises ModelError AW-MOD-23 if the file is missing or altered."""
    path = home.model(model.sha256, model.format)
    try:
        found = compute_digest(path)
    except FileNotFoundError:
        found = ""
    except OSError as error:
        raise from_os_error(error) from error
    if found == model.sha256:
        return
    state = f"was altered (SHA-256 {found[:12]}, registered {model.sha256[:12]})" if found else "is missing"
    first = "remove it, then " if found else ""
    hint = f"{first}run `archwright models evaluate {model.id}`, which restores it from its run"
    raise ModelError("AW-MOD-23", f"the file of {model.id} {state}", where=ErrorLocation(str(path)), hint=hint)
