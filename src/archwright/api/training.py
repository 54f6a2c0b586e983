"""`train`: start a run from a spec, follow its training process, register the result as a model version."""

import difflib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO

from archwright.api.context import open_home, write_audit_record
from archwright.catalog.load import load_catalog
from archwright.catalog.probe.host_resources import usable_cores
from archwright.contract.evidence import Prediction
from archwright.contract.lineage import TrainingRun
from archwright.contract.record import replace
from archwright.engines.model_files import locate_model
from archwright.errors import ArchwrightError, ErrorLocation, StoreError, TrainError
from archwright.home import Home
from archwright.lake.tables import version_index
from archwright.lifecycle import model_registry
from archwright.monitor.metrics.observations import ObservationRecorder
from archwright.reconcile.training import run_forecast, run_outcome
from archwright.store import Store
from archwright.training import run_execution, task_registry, training_data, training_process, training_runs
from archwright.training.training_loop import TrainingProgress
from archwright.training.training_runs import ResolvedJob
from archwright.training.training_spec import TrainSpec, read_spec

__all__ = ["TrainingProgress", "TrainingSession", "resume", "train"]

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class TrainingSession:
    """A run in progress. Iterate over it once for its progress, or call `result()`.

    Closing the session ends the run; `runs resume` continues it. `predictions` were made before its first step.
    """

    def __init__(self, home: Home, run: TrainingRun, lock: IO[bytes] | None, *, steps_to_make: bool) -> None:
        """`lock` is None if the run is finished already."""
        self.run = run
        self._home = home
        self._lock = lock
        self._launched: training_process.TrainingProcess | None = None
        if lock is not None and steps_to_make:
            self._launched = training_process.start_process(home, run.id, lock)

    @property
    def predictions(self) -> tuple[Prediction, ...]:
        return self.run.predictions

    def __iter__(self) -> Iterator[TrainingProgress]:
        """Raises the error that ended the run; the run is then recorded as failed."""
        if self._lock is None:
            return
        try:
            if self._launched is not None:
                with _stop_on_signals(self._launched.stop):
                    yield from self._follow_process(self._launched)
            self._record_end()
        except ArchwrightError as error:
            with suppress(StoreError):  # probably a full disk: the run then shows as interrupted
                self._record_error(error)
            raise
        finally:
            self.stop()

    def result(self) -> TrainingRun:
        for _ in self:
            pass
        return self.run

    def stop(self) -> None:
        """Release the run; its process ends if it still runs."""
        if self._launched is not None:
            self._launched.close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _follow_process(self, launched: training_process.TrainingProcess) -> Iterator[TrainingProgress]:
        for progress in launched:
            if progress.loss is not None:
                first_loss = self.run.loss_first
                if first_loss is None:
                    first_loss = progress.loss
                self.run = replace(self.run, step=progress.step, loss_first=first_loss, loss_last=progress.loss)
            if progress.resumed:
                with open_home() as (_settings, _home, store):
                    self._save_run(store, replace(self.run, resumed=self.run.resumed + 1))
            yield progress

    def _record_error(self, error: ArchwrightError) -> None:
        run = replace(self.run, error=f"{error.code} {error.message}")
        if error.code == training_process.KILLED_CODE and run.status != "finished":
            run = replace(run, status="interrupted")
        elif run.status != "finished":
            run = replace(run, status="failed")
        with open_home() as (_settings, _home, store):
            self._save_run(store, run)

    def _record_end(self) -> None:
        outcome = training_runs.load_outcome(self._home, self.run.id)
        with open_home() as (_settings, home, store):
            if outcome is None:
                self._save_run(store, replace(self.run, status="interrupted"))
                return
            finished = run_outcome.build_finished_run(self.run, outcome)
            if not self.run.deviations:
                labels = {"run": finished.id, "name": finished.name}
                with closing(ObservationRecorder(store)) as recorder:
                    for quantity, value in run_outcome.measure_outcome(outcome).items():
                        recorder.observe(quantity, labels, value)
            # Saved before the version is registered, because the version's lineage reads it.
            self._save_run(store, finished)
            learned = run_execution.read_result(home, finished.id)
            version = model_registry.register_model(store, home, finished, learned)
            self._save_run(store, replace(finished, model=version.id))

    def _save_run(self, store: Store, run: TrainingRun) -> None:
        self.run = replace(run, at=time.time())
        training_runs.append_run(store, self.run)


def train(spec: str) -> TrainingSession:
    """Start the training of a spec file; when this returns, the run is recorded and its process runs.

    Raises TrainError (the spec, its columns), DataError (the data set), MissingError (a package, the base's file)
    before anything starts.
    """
    chosen = read_spec(Path(spec))
    task_registry.require_packages(chosen.task, chosen.workers)
    with open_home() as (_settings, home, store):
        job = _build_job(home, store, chosen)
        chosen = replace(chosen, dataset=job.version.id)
        forecast = run_forecast.forecast_run(chosen, home, store)
        now = time.time()
        run = TrainingRun(
            id=job.id,
            at=now,
            status="running",
            created_at=now,
            dataset_version=job.version.id,
            base_sha256=job.base_sha256,
            name=chosen.name,
            task=chosen.task,
            base=chosen.base,
            seed=chosen.seed,
            workers=chosen.workers,
            steps=chosen.steps,
            predictions=forecast.predictions,
            bases=forecast.bases,
            not_predicted=forecast.reason,
        )
        training_runs.create_run(home, job, chosen)
        lock = training_runs.acquire_lock(home, run.id)
        write_audit_record(store, "train", run.id)
        training_runs.append_run(store, run)
    return TrainingSession(home, run, lock, steps_to_make=True)


def resume(id: str) -> TrainingSession:  # noqa: A002 - the verb's word
    """Continue a run that was interrupted or failed; a finished run is left as it is.

    Raises TrainError AW-TRN-20 (no such run), AW-TRN-22 (its folder is gone), AW-TRN-23 (it is running), AW-TRN-25
    (its dataset version is gone or changed).
    """
    with open_home() as (_settings, home, store):
        run = training_runs.find_run(store, id, home)
        if run.status == "finished" and run.model is not None:
            return TrainingSession(home, run, None, steps_to_make=False)
        lock = training_runs.acquire_lock(home, run.id)
        try:
            run = training_runs.find_run(store, run.id)
            outcome = training_runs.load_outcome(home, run.id)
            if outcome is None:
                _check_dataset_unchanged(store, training_runs.load_job(home, run.id))
                task_registry.require_packages(run.task, run.workers)
            run = replace(run, at=time.time(), status="running", resumed=run.resumed + 1, error="")
            write_audit_record(store, "runs.resume", run.id)
            training_runs.append_run(store, run)
        except BaseException:
            lock.close()
            raise
    return TrainingSession(home, run, lock, steps_to_make=outcome is None)


def _build_job(home: Home, store: Store, chosen: TrainSpec) -> ResolvedJob:
    version = version_index.find_version(store, chosen.dataset)
    if version.rows == 0:
        message = f"the dataset version {version.id} has no rows to train on"
        raise TrainError("AW-TRN-12", message, where=ErrorLocation(field="dataset"), hint="ingest more rows")
    training_data.check_columns(version, chosen)
    threads = chosen.threads or max(1, usable_cores() - 1)
    digest = _find_base_digest(home, chosen.base)
    return ResolvedJob(id=training_runs.new_id(), version=version, threads=threads, base_sha256=digest)


def _find_base_digest(home: Home, name: str) -> str:
    """Return the digest of the base's file in the home. Raises TrainError AW-TRN-04 for a name without a file."""
    if not name:
        return ""
    artefacts = load_catalog(home).artefacts
    if name not in artefacts:
        where = ErrorLocation(field="base")
        names = ", ".join(sorted(artefacts))
        nearest = difflib.get_close_matches(name, artefacts, 3, 0.3)
        raise TrainError(
            "AW-TRN-04",
            f"no base model called {name!r}",
            where=where,
            hint=f"use one of {names}",
            nearest=tuple(nearest),
        )
    locate_model(artefacts[name], home)
    return artefacts[name].sha256


def _check_dataset_unchanged(store: Store, job: ResolvedJob) -> None:
    digests = {version.id: version.content_sha256 for version in version_index.list_versions(store)}
    digest = digests.get(job.version.id)
    if digest != job.version.content_sha256:
        what = "is gone" if digest is None else "has changed"
        hint = "a run continues only with the rows it began with: start a new run with archwright train SPEC"
        message = f"the dataset version {job.version.id} {what} since the run {job.id} began"
        raise TrainError("AW-TRN-25", message, where=ErrorLocation(field=job.version.id), hint=hint)


@contextmanager
def _stop_on_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Let Ctrl-C and other stop signals ask the run to save a checkpoint and end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda _number, _frame: stop()) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
