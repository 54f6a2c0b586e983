"""Runs a function for many tasks: in this process, in worker processes of this machine, or on a Ray cluster.

Results come in the order of the tasks, whatever runs them.
"""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any, Literal, Protocol, TypeVar

from archwright import settings
from archwright.engines.process_restrictions import end_with_parent
from archwright.errors import DataError, ErrorLocation
from archwright.home import Home
from archwright.lake import ray_cluster
from archwright.python_process import check_safe_path

T = TypeVar("T")
R = TypeVar("R")
Runner = Literal["native", "ray"]
# Below this many bytes of input a second process costs more than it saves: it takes about 0.7 s to start.
PARALLEL_BYTES = 32 * 1024 * 1024


class TaskPool(Protocol):
    def map(self, function: Callable[[T], R], tasks: Sequence[T]) -> Iterator[R]: ...


class _SameProcess:
    def map(self, function: Callable[[T], R], tasks: Sequence[T]) -> Iterator[R]:
        return map(function, tasks)


class _WorkerProcesses:
    def __init__(self, executor: ProcessPoolExecutor) -> None:
        self._executor = executor

    def map(self, function: Callable[[T], R], tasks: Sequence[T]) -> Iterator[R]:
        try:
            # The executor starts processes when it is given tasks.
            with _hide_main_module(), settings.enforce_safe_path():
                results = self._executor.map(function, tasks)
            yield from results
        except BrokenProcessPool as error:
            hint = "if memory ran out, set fewer workers: ARCHWRIGHT_DATA_WORKERS=1; then run the command again"
            message = "a worker process ended before its part was done; complete parts remain"
            raise DataError("AW-DATA-63", message, where=ErrorLocation(field="data_workers"), hint=hint) from error


@contextmanager
def _hide_main_module() -> Iterator[None]:
    """Processes that start in this block do not run the main script again, which may lack a guard."""
    main = sys.modules["__main__"]
    hidden = {name: getattr(main, name, None) for name in ("__spec__", "__file__")}
    vars(main).update(dict.fromkeys(hidden))
    try:
        yield
    finally:
        vars(main).update(hidden)


class _RayTasks:
    """At most as many tasks in flight as the cluster has CPUs, and one for each to come."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._in_flight = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))

    def map(self, function: Callable[[T], R], tasks: Sequence[T]) -> Iterator[R]:
        remote = self._ray.remote(num_cpus=1)(function)
        waiting: deque[Any] = deque()
        for task in tasks:
            waiting.append(remote.remote(task))
            if len(waiting) >= self._in_flight:
                yield self._result(waiting.popleft())
        while waiting:
            yield self._result(waiting.popleft())

    def _result(self, reference: Any) -> Any:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except self._ray.exceptions.RayError as error:
            raise ray_cluster.cluster_error(settings.load().ray_address, error) from error


@contextmanager
def open_pool(home: Home, runner: Runner, size_bytes: int) -> Iterator[TaskPool]:
    """The pool for an input of `size_bytes`. Raises OperateError AW-OPS-60 or -61 (cluster unusable)."""
    if runner == "ray":
        ray = ray_cluster.import_ray("work on a cluster")
        ray_cluster.join_cluster(ray, settings.load().ray_address, {})
        try:
            ray_cluster.check_home(ray, home)
            yield _RayTasks(ray)
        finally:
            ray.shutdown()
        return
    workers = settings.load().data_workers or len(os.sched_getaffinity(0))
    if workers == 1 or size_bytes < PARALLEL_BYTES:
        yield _SameProcess()
        return
    with settings.enforce_safe_path():  # the executor starts a process that watches its semaphores
        executor = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_start_worker)
    with executor:
        try:
            yield _WorkerProcesses(executor)
        finally:
            executor.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    check_safe_path()
    end_with_parent()
