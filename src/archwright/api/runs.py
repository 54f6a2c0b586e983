"""Training runs: `runs list`, `runs show`, `runs resume`."""

from archwright.api import training
from archwright.api.context import audit_read, open_home
from archwright.api.training import TrainingSession
from archwright.contract.lineage import TrainingRun
from archwright.training import training_runs


@audit_read("runs.list")
def list() -> tuple[TrainingRun, ...]:  # noqa: A001 - the verb's name
    """Return every run with its current state, oldest first."""
    with open_home() as (_settings, home, store):
        return tuple(training_runs.list_runs(store, home))


@audit_read("runs.show", "id")
def show(id: str) -> TrainingRun:  # noqa: A002 - the verb's word
    """Return a run by its id, or the newest run of a name. Raises TrainError AW-TRN-20."""
    with open_home() as (_settings, home, store):
        return training_runs.find_run(store, id, home)


def resume(id: str) -> TrainingSession:  # noqa: A002 - the verb's word
    """Continue an interrupted run from its newest complete checkpoint."""
    return training.resume(id)
