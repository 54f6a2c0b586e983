"""Driver of a run with several workers: Ray Train starts them, and restarts all if one dies.

The training process drives Ray only if `workers` is above 1. It joins the cluster at `ray_address`; without an address
it starts a local Ray for the duration of the run. On a cluster the home must be a shared folder under the same path on
all machines, and archwright must be installed on each; both are checked before the start.

Checkpoints are written to the home and not through Ray. Workers report through files in the home, and a file there
tells them to stop. Each worker gets `threads` CPUs, or an equal share if the spec has no value.
"""

import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from archwright import settings
from archwright.contract.record import Record
from archwright.errors import ArchwrightError, ErrorLocation, TrainError
from archwright.home import Home
from archwright.journal import Journal
from archwright.lake import ray_cluster
from archwright.training import base_model, ray_collectives, ray_worker, run_execution, training_runs
from archwright.training.ray_worker import STOP_FILE, WorkerMessage, WorkerSpec
from archwright.training.training_loop import LoopHooks, TrainingProgress

R = TypeVar("R", bound=Record)

# Restarts within one training process; afterwards the user continues with `runs resume`.
MAX_FAILURES = 3
START_TIMEOUT_S = 600.0
POLL_INTERVAL_S = 0.2
RESUME_HINT = "read the log of the run, then continue from the newest checkpoint: archwright runs resume"
# Options of a local Ray. Its object store allocates its memory at once and stays nearly empty.
LOCAL_RAY = {"address": "local", "include_dashboard": False, "object_store_memory": 100 * 1024 * 1024}


class WorkerFailure(Record):
    """The ranks of dead workers and Ray's reason for the first of them."""

    at: float
    ranks: list[int]
    reason: str


def drive_run(home: Home, run: str, hooks: LoopHooks) -> None:
    """Run the workers to the last step, or until `hooks.stop`.

    Raises TrainError AW-TRN-61 (workers kept dying), AW-TRN-63 (CPUs do not suffice), AW-TRN-64 (no worker starts),
    OperateError AW-OPS-60 (no cluster), AW-OPS-61 (a machine does not see the home), and errors of workers.
    """
    spec, job, note = run_execution.announce_run(home, run, hooks)
    if job.base_sha256:
        base_model.prepare_base(home, job.base_sha256, spec.base)
    shutil.rmtree(home.worker_group(run))
    folder = home.worker_group(run)
    with _open_ray(home, run) as ray:
        machines = ray_cluster.list_nodes(ray)
        threads = allocate_threads([int(node["Resources"]["CPU"]) for node in machines], spec.workers, spec.threads)
        note(f"starting {spec.workers} workers on {len(machines)} machine(s), {threads} thread(s) each")
        given = WorkerSpec(home=str(home.root), run=run, threads=threads)
        follow_workers(RayTrainTask(ray, given, spec.workers), hooks, folder, spec.steps)
    if training_runs.load_outcome(home, run) is None and not (folder / STOP_FILE).exists():
        raise _workers_error("AW-TRN-61", "the workers ended before the last step")


def allocate_threads(cpus: list[int], workers: int, threads: int | None) -> int:
    """CPUs per worker: `threads`, or the largest number that fits for all workers on machines with `cpus`.

    Raises TrainError AW-TRN-63 if the machines are too small.
    """
    for each in [threads] if threads else range(max(cpus, default=0), 0, -1):
        if sum(have // each for have in cpus) >= workers:
            return each
    wanted = f"{workers} workers of {threads or 1} thread(s)"
    message = f"{wanted} do not fit on machines with {', '.join(map(str, cpus)) or 'no'} CPUs"
    hint = "reduce workers or threads in the spec, or set ray_address to a larger cluster"
    raise _workers_error("AW-TRN-63", message, hint)


def _workers_error(code: str, message: str, hint: str = RESUME_HINT) -> TrainError:
    return TrainError(code, message, where=ErrorLocation(field="workers"), hint=hint)


@contextmanager
def _open_ray(home: Home, run: str) -> Iterator[Any]:
    """Join a cluster or start Ray; after the block leave or stop it and remove the session folder."""
    ray = ray_cluster.import_ray("training with several workers")
    address = settings.load().ray_address
    # Spinning threads slow each other down.
    variables = {
        **base_model.OFFLINE_ENVIRONMENT,
        **(ray_collectives.CLUSTER_VARIABLES if address else ray_collectives.LOCAL_VARIABLES),
        "GOMP_SPINCOUNT": "1000",
    }
    before = signal.getsignal(signal.SIGTERM)
    try:
        if address:
            ray_cluster.join_cluster(ray, address, variables)
            ray_cluster.check_home(ray, home)
        else:
            ray_cluster.start_ray(ray, "", {**LOCAL_RAY, "_temp_dir": str(home.ray_session(run))}, variables)
        signal.signal(signal.SIGTERM, before)  # Ray replaces the handler
        yield ray
    finally:
        ray.shutdown()
        if not address:
            shutil.rmtree(home.ray_session(run), ignore_errors=True)


class RayTrainTask:
    """Ray Train in a Ray task, since `fit` would block this process and could not be ended."""

    def __init__(self, ray: Any, given: WorkerSpec, workers: int) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as Affinity  # noqa: PLC0415

        here = Affinity(ray.get_runtime_context().get_node_id(), soft=False)
        self._ray = ray
        task = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=here)(run_ray_train)
        self._task = task.remote(given, workers)
        self.error = ""

    def running(self) -> bool:
        done, _ = self._ray.wait([self._task], timeout=POLL_INTERVAL_S)
        if not done:
            return True
        try:
            self.error = self._ray.get(self._task)
        except self._ray.exceptions.RayError as error:
            self.error = ray_cluster.first_line(error)
        return False


def run_ray_train(given: WorkerSpec, workers: int) -> str:
    """The error of Ray Train, empty if it succeeded."""
    import ray.train.torch  # noqa: PLC0415

    folder = Home(given.home).worker_group(given.run)
    deaths = folder / "deaths.jsonl"

    class WorkerFailures(ray.train.UserCallback):  # type: ignore[misc]
        """Runs in Ray's controller, on the machine of the driving process."""

        def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, Exception]) -> None:
            # Peers of a dead worker fail with ConnectionResetError.
            dead = {rank: e for rank, e in worker_exceptions.items() if not isinstance(e, ConnectionResetError)}
            reason = next(iter(dead.values()), next(iter(worker_exceptions.values())))
            line = WorkerFailure(at=time.time(), ranks=sorted(dead), reason=ray_cluster.first_line(reason))
            with deaths.open("ab") as file:
                file.write(msgspec.json.encode(line) + b"\n")

    train, cpus = ray.train, {"CPU": given.threads}
    failures, callbacks = train.FailureConfig(max_failures=MAX_FAILURES), [WorkerFailures()]
    run_config = train.RunConfig(name="ray", storage_path=str(folder), failure_config=failures, callbacks=callbacks)
    trainer = train.torch.TorchTrainer(
        ray_worker.main,
        train_loop_config=msgspec.to_builtins(given),
        torch_config=train.torch.TorchConfig(backend="gloo"),
        scaling_config=train.ScalingConfig(num_workers=workers, resources_per_worker=cpus, placement_strategy="SPREAD"),
        run_config=run_config,
    )
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        return ray_cluster.first_line(error)
    return ""


def follow_workers(task: RayTrainTask, hooks: LoopHooks, folder: Path, steps: int) -> None:
    """Report the workers' messages until Ray Train ends. Raises the error that ended Ray Train."""
    monitor = _WorkerMonitor(hooks, folder, steps)
    deadline = hooks.now() + START_TIMEOUT_S
    while task.running():
        # Checked before messages are reported, since a hook may ask for a stop after the first step.
        if monitor.started and hooks.stop():
            (folder / STOP_FILE).touch()
        monitor.poll_workers()
        if not monitor.started and hooks.now() > deadline:
            message = f"no worker started within {START_TIMEOUT_S:.0f} s"
            hint = "wait for free CPUs, or reduce workers or threads; then run: archwright runs resume"
            raise _workers_error("AW-TRN-64", message, hint)
    monitor.poll_workers()
    if task.error:
        message, deaths = f"Ray Train failed: {task.error}", monitor.deaths
        if deaths:
            message = f"workers died {len(deaths)} times; the reason of the last death: {deaths[-1].reason}"
        raise _workers_error("AW-TRN-61", message)


class _WorkerMonitor:
    """`step` is the last step since this process started, None before the first step."""

    def __init__(self, hooks: LoopHooks, folder: Path, steps: int) -> None:
        self._hooks = hooks
        self._folder = folder
        self._steps = steps
        self._read: dict[Path, int] = {}
        self._journal = Journal("training", sys.stderr)
        self.step: int | None = None
        self.started = False
        self.deaths: list[WorkerFailure] = []
        self._failures: dict[int, ArchwrightError] = {}

    def poll_workers(self) -> None:
        """Raises the error of a worker, since the other workers may wait for the worker forever."""
        for path in sorted(self._folder.glob("worker-*.jsonl")):
            for message in self._read_new_lines(path, WorkerMessage):
                self.started = True
                self._handle_message(message)
        for death in self._read_new_lines(self._folder / "deaths.jsonl", WorkerFailure):
            self.deaths.append(death)
            who = f"worker {', '.join(map(str, death.ranks))}" if death.ranks else "a worker"
            self._journal.warning("worker died", ranks=death.ranks, reason=death.reason, died_at=round(death.at, 3))
            again = len(self.deaths) <= MAX_FAILURES
            what = "all restart from the newest checkpoint" if again else "the limit of restarts is reached"
            text = f"{who} died; {what}"
            self._hooks.tell(TrainingProgress(step=self.step or 0, steps=self._steps, note=text, resumed=again))
        if self._failures:
            raise self._failures[min(self._failures)]

    def _read_new_lines(self, path: Path, kind: type[R]) -> list[R]:
        """The complete lines since the last call."""
        at = self._read.get(path, 0)
        if not path.exists():
            return []
        with path.open("rb") as file:
            file.seek(at)
            new = file.read().rpartition(b"\n")[0]
        self._read[path] = at + len(new) + bool(new)
        return [msgspec.json.decode(line, type=kind) for line in new.splitlines()]

    def _handle_message(self, message: WorkerMessage) -> None:
        if message.progress is not None:
            self.step = message.progress.step if not message.progress.note else self.step
            self._hooks.tell(message.progress)
        elif message.failure is not None:
            self._failures[message.rank] = message.failure.to_exception()
        else:
            place = {"pid": message.pid, "host": message.host, "node": message.node}
            self._journal.info("worker started", rank=message.rank, **place, started_at=message.at)
