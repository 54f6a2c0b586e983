"""Joining a cluster: what is refused before any work is given to it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from archwright import settings
from archwright.lake import ray_cluster

from ..tools.checks import WAIT_S, refuses


@pytest.mark.parametrize("address", ["auto", "head", ":6379", "head:", "ray://head:x", "127.0.0.1:99999"])
def test_an_address_is_a_host_and_a_port(address: str) -> None:
    with refuses("AW-OPS-60", "the address is not HOST:PORT") as caught:
        ray_cluster.check_reachable(address)
    assert caught.value.where.field == "ray_address"


@pytest.mark.enable_socket
def test_a_dead_address_is_known_at_once() -> None:
    with refuses("AW-OPS-60", "Connection refused"):
        ray_cluster.check_reachable("127.0.0.1:1")


class InitRecorder:
    """Stands in for Ray, which the nightly tests start: notes the folder and the options of its start."""

    def init(self, **options: Any) -> None:
        self.folder, self.variable, self.options = Path.cwd(), settings.read_variable("PYTHONSAFEPATH"), options


def test_workers_get_a_safe_path_and_not_the_folder_of_their_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ray = InitRecorder()
    ray_cluster.start_ray(ray, "", {}, {"OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": ""})
    assert ray.options["runtime_env"] == {"env_vars": {"OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": "1"}}
    assert (ray.folder, ray.variable, Path.cwd()) == (Path("/"), "1", tmp_path)


@pytest.mark.process
def test_a_worker_without_a_safe_path_takes_no_work(tmp_path: Path) -> None:
    program = (
        "import sys; from archwright.lake.ray_cluster import probe_shared_home as probe; print(probe(*sys.argv[1:]))"
    )
    words = [sys.executable, "-c", program, str(tmp_path), "m1", "word"]
    environment = settings.child_environment(without=("PYTHONSAFEPATH",))
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=WAIT_S, check=True)
    assert "started without -P" in done.stdout and not (tmp_path / "m1").exists()


def test_a_machine_that_does_not_share_the_home_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "check_safe_path", lambda: None)
    folder = tmp_path / "look"
    assert ray_cluster.probe_shared_home(str(folder), "m1", "word") == "No such file or directory"
    folder.mkdir()
    (folder / "token").write_text("another")
    assert ray_cluster.probe_shared_home(str(folder), "m1", "word") == "it sees another folder under this path"
    assert not (folder / "m1").exists()
    (folder / "token").write_text("word")
    assert ray_cluster.probe_shared_home(str(folder), "m1", "word") == ""
    assert (folder / "m1").read_text() == "word"
