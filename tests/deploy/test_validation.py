"""The checks of a deployment run for real, except that a script stands in for the driver of accelerators."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.examples import read_example

from archwright import api
from archwright.catalog.catalog import Catalog
from archwright.contract.plan import Plan
from archwright.contract.record import replace
from archwright.deploy.cluster.validation import build_validation
from archwright.deploy.deployment import Deployment
from archwright.deploy.rendering.bundle import FileBundle
from archwright.deploy.rendering.templating import TEMPLATES
from archwright.home import Home
from archwright.plan.plan_file import read_plan, write_plan
from archwright.settings import child_environment

from ..small_plans import plan_under_load

SCRIPT = TEMPLATES / "validation" / "validate.sh"
H100 = "NVIDIA H100 80GB HBM3, 81559"
MakeBundle = Callable[..., FileBundle]
Shell = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def shell(processes: None, tmp_path: Path) -> Shell:
    """Run the script; `programs` by name are shell scripts on its path, before Python and archwright of these tests."""

    def run(*words: str, programs: dict[str, str] | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        ours = {"archwright": f'exec {sys.executable} -P -m archwright "$@"', "python3": f'exec {sys.executable} "$@"'}
        for name, text in {**ours, **(programs or {})}.items():
            (folder / name).write_text(f"#!/bin/sh\n{text}\n")
            (folder / name).chmod(0o755)
        environment = child_environment({"PATH": f"{folder}:/usr/bin:/bin", **variables})
        command = ["sh", str(SCRIPT), *words]
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, cwd=tmp_path)

    return run


@pytest.mark.parametrize(
    ("listed", "status"),
    [
        ([H100, H100], 0),
        ([H100], 1),
        ([H100, H100, H100], 1),
        ([H100, "NVIDIA L4, 23034"], 1),
        # Half of a device, and a variant with more memory.
        ([H100, "NVIDIA H100 80GB HBM3 MIG 3g.40gb, 40448"], 1),
        ([H100, "NVIDIA H100 NVL, 95830"], 1),
        ([], 1),
    ],
)
def test_the_device_check_wants_count_model_and_memory(shell: Shell, listed: list[str], status: int) -> None:
    programs = {"nvidia-smi": "\n".join(f"echo '{line}'" for line in listed)}
    done = shell("devices", "2", "H100", "81920", "0.9", "1.15", programs=programs)
    assert done.returncode == status, done.stdout + done.stderr
    assert f"devices: {len(listed)} listed" in done.stdout


@pytest.mark.parametrize(
    ("line", "words", "status"),
    [
        ("NVIDIA GB10, [N/A]", ("GB10", "121856", "0.9", "1.15", "shared"), 0),
        ("NVIDIA GB10, [N/A]", ("H100", "81920", "0.9", "1.15", "shared"), 1),
        # Only a device that shares its memory may state none.
        ("NVIDIA H100 80GB HBM3, [N/A]", ("H100", "81920", "0.9", "1.15"), 1),
        (H100, ("H100", "40960", "0.9", "1.15", "shared"), 1),
    ],
)
def test_a_device_that_shares_memory_may_state_none(
    shell: Shell, line: str, words: tuple[str, ...], status: int
) -> None:
    done = shell("devices", "1", *words, programs={"nvidia-smi": f"echo '{line}'"})
    assert done.returncode == status, done.stdout + done.stderr


def test_the_device_check_reads_the_other_vendors_list(shell: Shell) -> None:
    """rocm-smi prints a table with a header."""
    programs = {"rocm-smi": "echo 'device,Card Series'; echo 'card0,AMD Instinct MI300X OAM'"}
    assert shell("devices", "1", "MI300X", "196608", "0.9", "1.15", programs=programs).returncode == 0
    assert shell("devices", "2", "MI300X", "196608", "0.9", "1.15", programs=programs).returncode == 1


@pytest.mark.nightly
def test_the_all_reduce_has_two_ends(shell: Shell) -> None:
    """Two processes on this machine's processors stand in for accelerators."""
    for low, high, status in (("0.0001", "1000", 0), ("500", "1000", 1), ("0", "0.0001", 1)):
        done = shell("allreduce", "2", low, high, ELEMENTS="100000", OMP_NUM_THREADS="1")
        assert done.returncode == status, done.stdout + done.stderr
        assert "GB/s, expected" in done.stdout


def check_three_plans(shell: Shell, plan: Plan, folder: Path, url: str, key: str) -> None:
    """The plan's band passes; the band moved above and below what was measured fails, each with its verdict."""
    plan = plan_under_load(plan)
    for factor, status, word in ((1.0, 0, "within"), (1e4, 9, "better"), (1e-4, 9, "worse")):
        moved = [
            replace(one, estimate=one.estimate.scaled(factor)) if one.metric == "ttft_s" else one
            for one in plan.predictions
        ]
        write_plan(replace(plan, predictions=tuple(moved)), folder / "moved.json")
        home = {"ARCHWRIGHT_HOME": str(folder / "client"), "ARCHWRIGHT_KEY": key}
        done = shell("bench", f"{url}/v1", str(folder / "moved.json"), **home)
        assert done.returncode == status, done.stdout + done.stderr
        _, _, rest = done.stdout.partition("----- result.json\n")
        result = folder / "result.json"
        result.write_text(rest.partition("----- end of result.json")[0])
        read = api.reconcile(str(folder / "moved.json"), report=[str(result)])
        verdicts = {one.verdict for one in read.deviations if one.metric == "ttft_s"}
        assert verdicts == {word}, json.loads(result.read_text())


@pytest.mark.nightly
@pytest.mark.enable_socket
def test_bench_fails_at_both_ends_and_its_result_reads_back(
    shell: Shell, null_plan: Plan, home: Home, tmp_path: Path
) -> None:
    path = tmp_path / "plan.json"
    write_plan(null_plan, path)
    with api.up(str(path), port=0) as platform:
        assert platform.started.key is not None
        check_three_plans(shell, null_plan, tmp_path, platform.started.url, platform.started.key)


@pytest.mark.nightly
@pytest.mark.enable_socket
def test_bench_of_the_small_model_on_this_machine(
    shell: Shell, home: Home, model_home: Home, catalog: Catalog, tmp_path: Path
) -> None:
    """The desk plan of this machine, with a short load. Other programs may take most of it: 20 times is inside."""
    digest = catalog.artefacts["SmolLM2-135M-Instruct"].sha256
    home.model(digest).symlink_to(model_home.model(digest))
    needs = yaml.load(read_example("desk"), yaml.CSafeLoader)
    # A busy machine may not hold the limits of the example, and they are not what this test is about.
    needs["workloads"][0]["slo"] = {"ttft_p95_s": 120, "tpot_p95_s": 5}
    (tmp_path / "needs.yaml").write_text(yaml.safe_dump(needs))
    api.plan(str(tmp_path / "needs.yaml"), output=str(tmp_path / "plan.json"))
    made = read_plan(tmp_path / "plan.json")
    loads = tuple(replace(load, peak_s=20.0, closed_s=30.0, concurrency=1) for load in made.loads)
    wide = tuple(
        replace(one, estimate=replace(one.estimate, low=one.estimate.value / 20, high=one.estimate.value * 20))
        for one in made.predictions
    )
    plan = replace(made, loads=loads, predictions=wide)
    write_plan(plan, tmp_path / "plan.json")
    with api.up(str(tmp_path / "plan.json"), port=0) as platform:
        assert platform.started.key is not None
        check_three_plans(shell, plan, tmp_path, platform.started.url, platform.started.key)


def list_objects(bundle: FileBundle, folder: str) -> dict[tuple[str, str], Any]:
    objects = {}
    for path, file in bundle.files.items():
        if path.startswith(folder):
            for one in yaml.load_all(file.text, yaml.CSafeLoader):
                objects[one["kind"], one["metadata"]["name"]] = one
    return objects


def test_a_cluster_gets_one_check_per_pool_and_one_of_the_gateway(made_bundle: MakeBundle) -> None:
    objects = list_objects(made_bundle("manufacturer", "kubernetes"), "validation/fr/")
    pod = objects["Job", "validate-assistant"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert "validate.sh devices 1 'H100' 81920 0.9 1.15" in container["args"][0]
    assert "allreduce" not in container["args"][0]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert objects["ConfigMap", "validation"]["data"]["validate.sh"] == SCRIPT.read_text()
    bench = objects["Job", "validate-bench"]["spec"]["template"]["spec"]["containers"][0]
    assert (
        "--gate" in bench["args"][0]
        and "archwright.dev/predictions" in objects["Job", "validate-bench"]["metadata"]["annotations"]
    )
    assert not any(
        path.startswith("validation/") and "kustomization" in path
        for path in made_bundle("manufacturer", "kubernetes").files
    )


def test_several_accelerators_have_a_floor_and_a_ceiling(
    made_deployment: Callable[..., Deployment], catalog: Catalog
) -> None:
    deployment = made_deployment("manufacturer", "kubernetes")
    sites = []
    for site in deployment.sites:
        pools = tuple(replace(pool, accelerators_per_node=8, nodes=2 if pool.name == "x" else 1) for pool in site.pools)
        sites.append(replace(site, pools=pools))
    found = build_validation(replace(deployment, sites=tuple(sites)), catalog).pools["assistant"]
    # 450 GB/s in one direction.
    assert found.bus_gb_per_s == (300.1, 517.5)
    two = [replace(site, pools=tuple(replace(pool, nodes=2) for pool in site.pools)) for site in sites]
    across = build_validation(replace(deployment, sites=tuple(two)), catalog).pools["assistant"].bus_gb_per_s
    network = next(group for site in two for group in site.machines if "assistant" in group.pools).network_bytes_per_s
    assert across is not None
    assert across[0] == round(0.667 * min(450.0, network / 1e9), 1)


def test_one_machine_has_the_same_script(processes: None, made_bundle: MakeBundle) -> None:
    for target in ("systemd", "compose"):
        files = made_bundle("desk", target).files
        assert files["validate.sh"].text == SCRIPT.read_text() and files["validate.sh"].mode == 0o755
        done = subprocess.run(["sh", "-n"], input=files["validate-all.sh"].text, text=True, check=False)
        assert done.returncode == 0 and "bench" in files["validate-all.sh"].text


def test_an_unknown_check_shows_the_usage(shell: Shell) -> None:
    done = shell("else")
    assert done.returncode == 2 and "allreduce PROCESSES" in done.stderr and os.linesep in done.stderr
