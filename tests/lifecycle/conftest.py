"""A tiny language model with a run that was really trained, made once; and homes with made-up versions, made fast."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from archwright.contract.lineage import Evaluation, Gate, ModelVersion, Task, TrainingRun
from archwright.contract.record import replace
from archwright.home import Home
from archwright.lake import ingestion
from archwright.lake.tables import source_file_list
from archwright.lifecycle import model_registry
from archwright.store import Store
from archwright.training import base_model, run_execution, training_runs
from archwright.training.trainer import TrainedArtefact
from archwright.training.training_loop import LoopHooks
from archwright.training.training_runs import ResolvedJob
from archwright.training.training_spec import TrainSpec

from ..training.tiny_model import LORA, answers, write_model

RUN = "r-0000aaaa"


class School(NamedTuple):
    """A home with a tiny base, a data set and a finished run over both."""

    home: Home
    sha256: str


@pytest.fixture(scope="session")
def school(learning: None, tmp_path_factory: pytest.TempPathFactory) -> School:
    folder = tmp_path_factory.mktemp("school")
    home = Home(folder / "home")
    sha256 = write_model(folder / "tiny.gguf")
    shutil.copy(folder / "tiny.gguf", home.model(sha256))
    spec = replace(LORA, steps=30, tokens_per_step=128, held_out=0.2)
    with closing(Store(home.store_url)) as store:
        training_runs.append_run(store, train_adapter(store, home, answers(160), spec, sha256))
    return School(home, sha256)


def train_adapter(store: Store, home: Home, rows: str, spec: TrainSpec, sha256: str) -> TrainingRun:
    """Ingest the rows and train the run RUN on them."""
    path = home.folder() / "rows.jsonl"
    path.write_text(rows, encoding="utf-8")
    request = ingestion.IngestRequest(path, spec.dataset, "CC0-1.0")
    version = ingestion.ingest_files(home, store, request).version
    base_model.prepare_base(home, sha256)
    training_runs.create_run(home, ResolvedJob(id=RUN, version=version, threads=1, base_sha256=sha256), spec)
    run_execution.drive_run(home, RUN, LoopHooks(lambda _progress: None))
    return finished_run(RUN, spec, version.id, sha256)


def finished_run(run: str, spec: TrainSpec, dataset_version: str, base_sha256: str = "") -> TrainingRun:
    return TrainingRun(
        id=run,
        at=time.time(),
        name=spec.name,
        task=spec.task,
        status="finished",
        created_at=time.time(),
        dataset_version=dataset_version,
        base=spec.base,
        base_sha256=base_sha256,
    )


class Pupil(NamedTuple):
    """A copy of the school's home, in force, that a test may do anything to."""

    home: Home
    store: Store
    run: TrainingRun

    @property
    def result(self) -> Path:
        return self.home.run(RUN) / "result"

    def register(self) -> ModelVersion:
        return model_registry.register_model(self.store, self.home, self.run, run_execution.read_result(self.home, RUN))


@pytest.fixture
def pupil(school: School, home: Home) -> Iterator[Pupil]:
    shutil.copytree(school.home.root, home.root)
    store = Store(home.store_url)
    yield Pupil(home, store, training_runs.find_run(store, RUN))
    store.close()


class Stage:
    """A home whose runs are said to have happened and whose model files are a few bytes."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.store = Store(home.store_url)
        source = home.root / "rows.jsonl"
        source.write_text('{"x": 1, "label": "a"}\n', encoding="utf-8")
        request = ingestion.IngestRequest(source, "rows", "CC0-1.0")
        self.dataset = ingestion.ingest_files(home, self.store, request).version
        (self.file,) = source_file_list.read_source_files(home, self.dataset)

    def run(self, number: int = 1, name: str = "digits", task: Task = "image-classifier") -> TrainingRun:
        folder = self.home.run(f"r-{name}-{number}") / "result"
        folder.mkdir(exist_ok=True)
        (folder / "model.onnx").write_bytes(b"\x08" + f"{name} {number}".encode())
        return finished_run(f"r-{name}-{number}", TrainSpec(name=name, task=task, dataset="rows"), self.dataset.id)

    def version(self, number: int = 1, name: str = "digits", *, gates: tuple[Gate, ...] | None = None) -> ModelVersion:
        """A registered version; with `gates` an evaluated one."""
        made = model_registry.register_model(self.store, self.home, self.run(number, name), RESULT)
        if gates is not None:
            self.judged(made, gates)
        return made

    def judged(self, version: ModelVersion, gates: tuple[Gate, ...]) -> None:
        name = hashlib.sha256(f"{version.id} {time.time()}".encode()).hexdigest()[:8]
        rival = model_registry.find_rival(self.store, version)
        found = Evaluation(
            id=f"e-{name}",
            at=time.time(),
            model=version.id,
            scores=(),
            gates=gates,
            production=model_registry.get_id(rival),
        )
        self.store.append(model_registry.EVALUATIONS, [found])


RESULT = TrainedArtefact(format="onnx", file="model.onnx", labels=("0", "1"), input_shape=(1, 8, 8))
PASSED = (Gate(name="quality", passed=True, detail="good"), Gate(name="export", passed=True, detail="equal"))


@pytest.fixture
def stage(home: Home) -> Iterator[Stage]:
    home.folder()
    made = Stage(home)
    yield made
    made.store.close()
