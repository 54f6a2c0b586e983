"""Each job finds the packages of its command in the image that it names, by the command's own check of packages."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from typing import Any, NamedTuple, get_args

import pytest
from tests.deploy.conftest import MadeBundle, MadePlan
from tests.deploy.object_rules import find_pods
from tests.deploy.test_image import list_closure, normalise
from tests.deploy.test_platform import read_objects, widen_job
from tests.deploy.tools import ROOT

from archwright.cli import build_parser
from archwright.contract.lineage import Task
from archwright.contract.needs import WorkloadKind
from archwright.contract.plan import WorkloadPlan
from archwright.contract.record import replace
from archwright.deploy.containers.job_commands import INCOMING_FOLDER, choose_command
from archwright.deploy.rendering.bundle import FileBundle
from archwright.errors import MissingError
from archwright.training import task_registry

IMAGE = re.compile(r"archwright-jobs:\S+@sha256:\S+")
EXTRAS = re.compile(r'"archwright\[([\w,]+)\]')
# The base of the image brings it, and constraints.txt leaves it out.
OF_THE_BASE = {"setuptools"}


class RenderedJob(NamedTuple):
    words: list[str]
    image: str
    machines: int
    container: dict[str, Any]


def list_jobs(bundle: FileBundle) -> Iterator[RenderedJob]:
    for path, item in read_objects(bundle):
        if "jobs" not in path.split("/"):
            continue
        containers = [pod.spec["containers"][0] for pod in find_pods(item)]
        spec = item["spec"]
        words = spec["entrypoint"].split() if item["kind"] == "RayJob" else containers[0]["command"]
        workers = spec["rayClusterSpec"]["workerGroupSpecs"][0]["replicas"] if item["kind"] == "RayJob" else 0
        yield RenderedJob(words, containers[0]["image"], workers + 1, containers[0])


def read_extras(bundle: FileBundle) -> tuple[str, ...]:
    """Return the extras of the image of jobs, and of the image below it."""
    texts = [bundle.files[f"image/{name}"].text for name in ("Containerfile", "Containerfile.jobs")]
    return tuple(extra for text in texts for names in EXTRAS.findall(text) for extra in names.split(","))


@pytest.fixture(scope="module")
def bundle(made_plan: MadePlan, made_bundle: MadeBundle) -> FileBundle:
    """One with a training and an index of two data sets, for each of which the plan has four machines."""
    plan = widen_job(made_plan("startup"), "cloud-gcp", 4)
    workloads = tuple(replace(one, data=("handbook", "tickets")) for one in plan.workloads)
    return made_bundle(replace(plan, workloads=workloads), "kubernetes", "cloud-gcp")


def check_packages(job: RenderedJob, extras: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask the command for its packages as if only those of the image were installed."""
    parsed = build_parser().parse_args(job.words[1:])
    if parsed.verb.function != "train":
        return  # `test_each_kind_of_job_has_its_command` names the extras of the other commands
    installed, places = list_closure("archwright", extras, set()), packages_distributions()

    def find_spec(package: str) -> bool | None:
        names = places.get(package, [package])
        return bool(installed & {normalise(name) for name in names}) or None

    with monkeypatch.context() as patch:
        patch.setattr(task_registry, "find_spec", find_spec)
        for task in get_args(Task):
            task_registry.require_packages(task, job.machines)


def test_each_job_finds_its_packages_in_its_image(bundle: FileBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    index, training = sorted(list_jobs(bundle), key=lambda job: job.machines)
    assert (index.machines, training.machines) == (1, 4)
    assert IMAGE.fullmatch(index.image) and index.image == training.image
    assert {"lake", "predict", "train", "ray"} <= {*read_extras(bundle)}
    check_packages(training, read_extras(bundle), monkeypatch)


def test_a_job_of_two_data_sets_runs_a_command_for_each(bundle: FileBundle) -> None:
    index = min(list_jobs(bundle), key=lambda job: job.machines)
    assert index.words[:2] == ["sh", "-c"]
    lines = [shlex.split(line) for line in index.words[2].split(" && ")]
    assert lines == [["archwright", "data", "index", name] for name in ("handbook", "tickets")]
    assert "the plan has 4 machines for it, but its command uses one" in bundle.files["README.md"].text


def test_the_home_of_jobs_and_of_their_data_lies_below_the_root_of_the_volume(bundle: FileBundle) -> None:
    """The root of a volume belongs to another user, and a home there is refused (AW-SET-07)."""
    pods = [
        pod for path, item in read_objects(bundle) if path.startswith("job-data/") for pod in find_pods({"spec": item})
    ]
    containers = [*(job.container for job in list_jobs(bundle)), *(pod.spec["containers"][0] for pod in pods)]
    assert len(containers) == 3
    (home,) = re.findall(r"ARCHWRIGHT_HOME=(\S+)", bundle.files["image/Containerfile"].text)
    for container in containers:
        assert "ARCHWRIGHT_HOME" not in {variable["name"] for variable in container["env"]}
        (volume,) = [mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == "home"]
        assert home.startswith(f"{volume}/") and INCOMING_FOLDER.startswith(f"{volume}/")


def test_the_commands_of_the_readme_are_those_of_the_parser(bundle: FileBundle) -> None:
    readme = bundle.files["README.md"].text
    commands = re.findall(r"exec job-data -- archwright (.+)", readme)
    functions = [build_parser().parse_args(command.split()).verb.function for command in commands]
    assert functions == ["data.ingest", "models.fetch"]
    for job in ("tone", "index"):
        (path,) = re.findall(rf"kubectl create -f (jobs/\S+/{job}\.yaml)", readme)
        assert path in bundle.files


COMMANDS: list[tuple[WorkloadKind | None, int, str, tuple[str, ...], int]] = [
    (None, 4, "train", ("train", "ray"), 4),
    ("finetune", 1, "train", ("train",), 1),
    ("pretrain", 4, "train", ("train", "ray"), 4),
    ("data-processing", 4, "data.refine", ("lake", "predict", "ray"), 4),
    ("embedding", 4, "data.index", ("lake", "predict"), 1),
    ("document-parsing", 1, "data.ingest", ("documents",), 1),
]


@pytest.mark.parametrize("kind, machines, function, extras, used", COMMANDS)
def test_each_kind_of_job_has_its_command(
    kind: WorkloadKind | None, machines: int, function: str, extras: tuple[str, ...], used: int
) -> None:
    """The command line is one that the parser accepts, and it names the data set of the needs."""
    workload = WorkloadPlan(name="work", model=None, pools=(), kind=kind, data=("papers",))
    command = choose_command(workload, machines)
    parsed = build_parser().parse_args(command.words[1:])
    assert (parsed.verb.function, command.extras, command.machines) == (function, extras, used)
    assert ("papers" in command.words) == (function in ("data.index", "data.ingest"))
    assert ("work" in choose_command(replace(workload, data=()), machines).words) == ("papers" in command.words)
    odd = choose_command(replace(workload, data=("-papers",)), machines)
    assert odd.lines == command.lines, "a name is no option of the command line"


@pytest.mark.parametrize("machines, extras, missing", [(1, (), "train"), (4, ("train",), "ray")])
def test_an_image_without_an_extra_is_found(
    machines: int, extras: tuple[str, ...], missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = RenderedJob(["archwright", "train", "spec.yaml"], "", machines, {})
    with pytest.raises(MissingError, match="needs the package") as caught:
        check_packages(job, ("hub", "postgres", *extras), monkeypatch)
    assert caught.value.where.field == f"extra [{missing}]"


def test_the_image_of_jobs_installs_the_versions_that_were_tested(bundle: FileBundle) -> None:
    tested = set((ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines())
    wanted = list_closure("archwright", ("hub", "postgres", "documents", "predict", "ray"), set()) - OF_THE_BASE
    texts = [bundle.files[f"image/{name}"].text for name in ("constraints.txt", "constraints-jobs.txt")]
    pins = {line for text in texts for line in text.splitlines() if "==" in line}
    assert pins <= tested
    assert wanted <= {normalise(pin.partition("==")[0]) for pin in pins}


def test_a_bundle_without_jobs_has_no_image_for_them(made_bundle: MadeBundle) -> None:
    bundle = made_bundle("desk", "compose")
    assert "image/Containerfile.jobs" not in bundle.files and "archwright-jobs" not in bundle.pins.images
