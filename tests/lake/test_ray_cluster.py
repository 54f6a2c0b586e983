"""Joining a cluster: what is refused before any work is given to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from archwright.lake import ray_cluster

from ..tools.checks import refuses


@pytest.mark.parametrize("address", ["auto", "head", ":6379", "head:", "ray://head:x", "127.0.0.1:99999"])
def test_an_address_is_a_host_and_a_port(address: str) -> None:
    with refuses("AW-OPS-60", "the address is not HOST:PORT") as caught:
        ray_cluster.check_reachable(address)
    assert caught.value.where.field == "ray_address"


@pytest.mark.enable_socket
def test_a_dead_address_is_known_at_once() -> None:
    with refuses("AW-OPS-60", "Connection refused"):
        ray_cluster.check_reachable("127.0.0.1:1")


def test_a_machine_that_does_not_share_the_home_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "look"
    assert ray_cluster.probe_shared_home(str(folder), "m1", "word") == "No such file or directory"
    folder.mkdir()
    (folder / "token").write_text("another")
    assert ray_cluster.probe_shared_home(str(folder), "m1", "word") == "it sees another folder under this path"
    assert not (folder / "m1").exists()
    (folder / "token").write_text("word")
    assert ray_cluster.probe_shared_home(str(folder), "m1", "word") == ""
    assert (folder / "m1").read_text() == "word"
