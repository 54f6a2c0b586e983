"""Measures what share of the probed matrix rate training reaches, and its memory: the figures behind the rows of
training_efficiencies.csv.

    python bench/training/measure.py text-lora [--sizes 256,512,1024] [--rank 8] [--threads 1] [--steps 6]
    python bench/training/measure.py image-classifier [--sizes 16,64,256]
    python bench/training/measure.py tabular-classifier [--sizes 4000,16000,64000]

Every size runs in a process of its own, through the very trainers of the product, over text that every Python brings
(the language reference), scikit-learn's digits, or drawn numbers. Before each step the same process takes the matrix
product of the probe, so that neighbours disturb both alike; beside seconds of the clock stand seconds of the
processor, which leave out that the process had to wait. A least-squares fit over all steps, on processor time, prints
what the row holds: the shares and the fixed costs. Memory is the peak of the resident set; `process` is it after the
libraries were loaded and before the trainer was made.

The text model must be in the home in force (`archwright models fetch SmolLM2-135M-Instruct`).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from pydoc_data import topics
from typing import Any

from archwright import settings
from archwright.catalog.load import load_catalog
from archwright.catalog.probe.probe_worker import MATRIX_SIZE
from archwright.contract.lineage import DatasetVersion
from archwright.home import Home
from archwright.settings import child_environment
from archwright.sizing.training.training_flops import BoostedTreesStep, LoraStep, NetworkStep, build_convolution_step
from archwright.training import base_model, image_classifier, task_registry
from archwright.training.data_order import Cursor, DataOrder
from archwright.training.text_lora import LoraTrainer
from archwright.training.trainer import SingleWorker, TrainerSetup
from archwright.training.training_data import DataSplit, TrainingData
from archwright.training.training_spec import ImageSpec, TrainSpec

MODEL = "SmolLM2-135M-Instruct"
SIZES = {"text-lora": "256,512,1024", "image-classifier": "16,64,256", "tabular-classifier": "4000,16000,64000"}
STEPS = {"text-lora": 6, "image-classifier": 60, "tabular-classifier": 20}
FEATURES = 9
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def paragraphs() -> Iterator[dict[str, str]]:
    for name, text in sorted(topics.topics.items()):
        for part in re.split(r"\n\s*\n", text):
            if 60 < len(part) < 1200:
                yield {"prompt": f"What does the Python reference say on {name}?", "completion": part}


def rows_of(task: str, size: int, classes: int) -> list[dict[str, Any]]:
    if task == "text-lora":
        return list(paragraphs())
    if task == "image-classifier":
        from sklearn.datasets import load_digits  # noqa: PLC0415

        pixels, labels = load_digits(return_X_y=True)
        return [
            {**{f"pixel_{n:02d}": float(v) for n, v in enumerate(row)}, "label": int(label)}
            for row, label in zip(pixels, labels, strict=True)
        ]
    chance = random.Random(1)
    drawn = ([chance.gauss(0, 1) for _ in range(FEATURES)] for _ in range(size))
    return [
        {
            **{f"x{n}": v for n, v in enumerate(row)},
            "label": int((row[0] + row[1] * row[2] + chance.gauss(0, 1)) * 2) % classes,
        }
        for row in drawn
    ]


def data_of(rows: list[dict[str, Any]]) -> TrainingData:
    import pyarrow as pa  # noqa: PLC0415

    table = pa.Table.from_pylist([{"record_id": f"{n:08d}", **row} for n, row in enumerate(rows)])
    part = DataSplit(table.column("record_id").to_pylist(), table)
    version = DatasetVersion(
        id="bench@v1", dataset="bench", version=1, at=0.0, action="ingest", parent=None, rows=len(rows), size_bytes=0,
        columns={}, drops={}, changes={}, content_sha256="",
    )  # fmt: skip
    return TrainingData(part, DataSplit([], table.slice(0, 0)), version, 0)


def status(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    assert found
    return int(found.group(1)) * 1024


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of the clock and of the processor."""
    wall, own = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - own


class Probe:
    """The matrix product of the probe, in this process."""

    def __init__(self) -> None:
        import numpy  # noqa: PLC0415

        self._left = numpy.random.default_rng(1).random((MATRIX_SIZE, MATRIX_SIZE), dtype=numpy.float32)
        self._out, self._product = numpy.empty_like(self._left), numpy.matmul

    def rates(self) -> tuple[float, float]:
        """FLOP/s by the clock and by the processor's time."""
        found = [timed(lambda: self._product(self._left, self._left, out=self._out)) for _ in range(7)]
        walls, owns = zip(*found, strict=True)
        return 2 * MATRIX_SIZE**3 / statistics.median(walls), 2 * MATRIX_SIZE**3 / statistics.median(owns)


def measure(given: argparse.Namespace, size: int) -> dict[str, Any]:
    """All steps of one size, in this process."""
    text = given.task == "text-lora"
    sha256 = load_catalog().artefacts[MODEL].sha256 if text else ""
    spec = TrainSpec(
        name="bench", task=given.task, dataset="bench", base=MODEL if text else "", steps=given.steps, rank=given.rank,
        tokens_per_step=size if text else 512, rows_per_step=size,
        image=ImageSpec(height=8, width=8, scale=16.0) if given.task == "image-classifier" else None,
    )  # fmt: skip
    data = data_of(rows_of(given.task, size, given.classes))
    probe = Probe()
    libraries(given.task)
    process = status("VmRSS")
    setup = TrainerSetup(spec, data, Home(settings.load().home), SingleWorker(), given.threads, sha256)
    trainer = task_registry.make_trainer(setup)
    loaded = status("VmHWM")
    order, lengths = DataOrder(data.train.ids, trainer.lengths(), spec.seed, Cursor()), trainer.lengths()
    steps = []
    for _ in range(given.steps):
        rate = probe.rates()
        taken: list[list[int]] = []
        took = timed(lambda taken=taken: taken.append(order.next_rows(trainer.budget())))  # type: ignore[misc]
        rows = taken[0]
        wall, own = timed(lambda rows=rows: trainer.step(rows))  # type: ignore[misc]
        samples = [trainer._rows[row] for row in rows] if isinstance(trainer, LoraTrainer) else []
        learned = sum(len(one.ids) - max(1, one.start) for one in samples) if text else len(rows)
        steps.append(
            {"units": sum(lengths[row] for row in rows), "learned": learned, "wall_s": wall, "cpu_s": own,
             "take_cpu_s": took[1],
             "probe": rate[0], "probe_cpu": rate[1], "load": os.getloadavg()[0]}
        )  # fmt: skip
    return {
        "size": size,
        "process_bytes": process,
        "loaded_bytes": loaded,
        "peak_bytes": status("VmHWM"),
        "steps": steps,
    }


def libraries(task: str) -> None:
    if task == "tabular-classifier":
        import lightgbm  # noqa: F401, PLC0415

        return
    import torch  # noqa: F401, PLC0415

    if task == "text-lora":
        import peft  # noqa: F401, PLC0415
        import transformers  # noqa: F401, PLC0415


def work_of(given: argparse.Namespace, size: int) -> LoraStep | NetworkStep | BoostedTreesStep:
    if given.task == "text-lora":
        model = load_catalog().models[MODEL]
        return LoraStep(model=model, ffn=model.ffn or 0, rank=given.rank)
    if given.task == "image-classifier":
        return build_convolution_step((8, 8, 1), image_classifier.CHANNELS, 10, 1797)
    return BoostedTreesStep(
        features=FEATURES, trees_per_round=1 if given.classes == 2 else given.classes, data_rows=size
    )


def fit(given: argparse.Namespace, found: list[dict[str, Any]]) -> dict[str, float]:
    """Shares and fixed costs by least squares of relative errors, on processor time, without first steps."""
    import numpy  # noqa: PLC0415

    rows, spent = [], []
    for one in found:
        work = work_of(given, one["size"])
        for step in one["steps"][1:]:
            flops = work.flops(step["units"], step["learned"] / step["units"])
            rows.append([flops.dense, flops.attention, 1.0] if flops.attention else [flops.dense, 1.0])
            spent.append(step["cpu_s"] * step["probe_cpu"])
    weight = 1 / numpy.array(spent)
    answer = numpy.linalg.lstsq(numpy.array(rows) * weight[:, None], numpy.ones(len(spent)), rcond=None)[0]
    errors = numpy.array(rows) @ answer / numpy.array(spent)
    shares = {"share_of_matmul": 1 / answer[0], "fixed_flops": answer[-1]}
    if len(answer) == 3:
        shares["attention_share_of_matmul"] = 1 / answer[1]
    later = [step for one in found for step in one["steps"][1:]]
    if given.task != "text-lora":
        took = sum(step["take_cpu_s"] * step["probe_cpu"] for step in later)
        shares["fixed_flops_per_unit"] = took / sum(step["units"] for step in later)
    return {**shares, "predicted/measured low": errors.min(), "high": errors.max()}


def show(one: dict[str, Any]) -> str:
    later = one["steps"][1:]
    units, wall = sum(s["units"] for s in later), sum(s["wall_s"] for s in later)
    probe = statistics.median(s["probe"] for s in later)
    first, learned = one["steps"][0], sum(s["learned"] for s in later)
    own, probe_own = sum(s["cpu_s"] for s in later), statistics.median(s["probe_cpu"] for s in later)
    memory = ", ".join(f"{name} {one[f'{name}_bytes'] / 1e6:.0f} MB" for name in ("process", "loaded", "peak"))
    return (
        f"size {one['size']}: {units / len(later):.0f} units a step, {learned / units:.2f} learned. "
        f"Rate {units / wall:.1f}/s by the clock, {units / own:.1f}/s by the processor. "
        f"First step {first['wall_s']:.3f} s, then {wall / len(later):.4f}. "
        f"Probe {probe / 1e9:.1f} GFLOP/s by the clock, {probe_own / 1e9:.1f} by the processor; "
        f"load {later[-1]['load']:.1f}; {memory}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=sorted(SIZES))
    parser.add_argument("--sizes")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--classes", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--child", type=int)
    given = parser.parse_args()
    given.steps = given.steps or STEPS[given.task]
    if given.child:
        print(json.dumps(measure(given, given.child)))
        return
    found = []
    for size in map(int, (given.sizes or SIZES[given.task]).split(",")):
        run = subprocess.run(
            [sys.executable, *sys.argv, "--child", str(size)],
            env=child_environment({**base_model.OFFLINE_ENVIRONMENT, **ONE_THREAD}),
            stdout=subprocess.PIPE,
            check=True,
        )
        found.append(json.loads(run.stdout.splitlines()[-1]))
        print(show(found[-1]), flush=True)
    shares = fit(given, found)
    print(json.dumps({name: float(f"{value:.4g}") for name, value in shares.items()}))
    if given.output:
        given.output.write_text(json.dumps({"fit": shares, "sizes": found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
