"""The group of several workers: two real processes whose tensors meet, and one of them that dies."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load
from torch import distributed

from archwright.settings import child_environment
from archwright.training import image_classifier
from archwright.training.data_order import Cursor, DataOrder
from archwright.training.ray_collectives import RayWorkerGroup
from archwright.training.trainer import SingleWorker, WorkerGroup

from ..tools.checks import WAIT_S, refuses
from . import classifier_rows

# The other worker: its tensors, in the order of the calls below, and what it ends with in hexadecimal.
OTHER = """
import os, sys, torch
from torch import distributed
from archwright.training.ray_collectives import RayWorkerGroup
torch.set_num_threads(1)
distributed.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=1, world_size=2)
group = RayWorkerGroup()
torch.manual_seed(1)
first, second = [torch.randn(3, 5), torch.randn(7)], [torch.full((4,), float("nan"))]
group.mean(first, 30.0)
group.mean(second, 0.0)
print(torch.cat([part.reshape(-1) for part in (*first, *second)]).numpy().tobytes().hex(), flush=True)
os._exit(0)  # as a worker that dies: it takes leave of nobody
"""

# The other worker of a training: every second row of each of its steps.
TRAINING = """
import os, sys
sys.path.insert(0, sys.argv[2])
import torch
from torch import distributed
from pathlib import Path
from tests.training.test_ray_collectives import trained
from archwright.training.ray_collectives import RayWorkerGroup
torch.set_num_threads(1)
distributed.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=1, world_size=2)
print(trained(Path(sys.argv[1]).parent, RayWorkerGroup()).weights_sha256(), flush=True)
os._exit(0)
"""
STEPS = 50
ROOT = Path(__file__).parents[2]


@pytest.fixture
def other(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The second worker; this process is the first, and both stand in one process group."""
    torch.set_num_threads(1)
    meeting = tmp_path / "meeting"
    environment = child_environment({"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"})
    argv = [sys.executable, "-c", request.param, str(meeting), str(ROOT)]
    child = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=0, world_size=2)
        yield child
    finally:
        distributed.destroy_process_group()
        child.kill()
        child.communicate()


@pytest.mark.process
@pytest.mark.parametrize("other", [OTHER], indirect=True, ids=["sums"])
def test_two_workers_end_with_the_same_bytes_and_know_when_one_is_gone(other: subprocess.Popen[str]) -> None:
    group = RayWorkerGroup()
    assert (group.rank, group.size) == (0, 2)
    torch.manual_seed(0)
    mine: list[Any] = [torch.randn(3, 5, requires_grad=True), torch.randn(7, dtype=torch.float64)]
    expected = _weighted(mine)
    group.mean(mine, 10.0)
    alone: list[Any] = [torch.arange(4.0)]
    group.mean(alone, 5.0)
    torch.testing.assert_close(torch.cat([part.reshape(-1).double() for part in mine]), expected, rtol=0, atol=3e-7)
    assert mine[0].shape == (3, 5) and mine[0].requires_grad and mine[1].dtype == torch.float64
    # A worker that had no rows does not count, whatever it holds.
    assert alone[0].tolist() == [0.0, 1.0, 2.0, 3.0]

    assert other.stdout is not None
    theirs = bytes.fromhex(other.stdout.readline())
    assert theirs == torch.cat([part.detach().reshape(-1).float() for part in (*mine, *alone)]).numpy().tobytes()

    assert other.wait(WAIT_S) == 0
    with refuses("AW-TRN-60", "another worker died"):
        group.mean(mine, 10.0)


def _weighted(mine: list[Any]) -> Any:
    """The mean of both workers' first tensors, weighted 10 to 30, in double precision."""
    state = torch.get_rng_state()
    torch.manual_seed(1)
    theirs = [torch.randn(3, 5), torch.randn(7)]
    torch.set_rng_state(state)
    pairs = zip(mine, theirs, strict=True)
    return torch.cat([(a.detach().double() * 10 + b.double() * 30).reshape(-1) / 40 for a, b in pairs])


def trained(folder: Path, group: WorkerGroup, share: int = 1) -> Any:
    """The pictures' network after some steps of this worker's rows; of each step only every `share`-th row."""
    setup = classifier_rows.setup_of(classifier_rows.digits(), classifier_rows.DIGITS, folder, group)
    trainer = image_classifier.make_trainer(setup)
    order = DataOrder(setup.data.train.ids, trainer.lengths(), setup.spec.seed, Cursor())
    for _ in range(STEPS):
        trainer.step(order.next_rows(trainer.budget())[::share][group.rank :: group.size])
    return trainer


def numbers(trainer: Any) -> Any:
    kept = load(trainer.state()["state.safetensors"])
    return torch.cat([kept[name].reshape(-1) for name in sorted(kept) if name.startswith("net.")])


@pytest.mark.nightly
@pytest.mark.process
@pytest.mark.parametrize("other", [TRAINING], indirect=True, ids=["training"])
def test_two_workers_learn_what_one_learns(other: subprocess.Popen[str], tmp_path: Path) -> None:
    """Up to rounding: half of each step's rows, the control, is a thousand times as far away as is allowed."""
    together = trained(tmp_path, RayWorkerGroup())
    assert other.stdout is not None
    assert other.stdout.readline().strip() == together.weights_sha256()
    alone = numbers(trained(tmp_path, SingleWorker()))
    assert (numbers(together) - alone).norm() < 1e-5 * alone.norm()
    assert (numbers(trained(tmp_path, SingleWorker(), share=2)) - alone).norm() > 1e-2 * alone.norm()
