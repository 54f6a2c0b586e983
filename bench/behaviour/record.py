"""Record what users and machines can see of the program, so that a refactoring can be checked with compare.py.

    python -m bench.behaviour.record DIR [--checkout DIR] --machine machine.json [--truth DIR]

Runs the code of a checkout (default: this one) through its command line and its tests of raw HTTP, and writes to DIR:
plan-*.json (the four examples), verbs.json (the JSON of every verb), http.json (status and headers of the replies to
every raw case), predictions.txt and capacities.txt (the frozen tables of tests/gate), accuracy.md (with --truth).
`--machine` is the probe of this machine (from the `measured` folder of a home): two records with the same file are
comparable, because plans for this machine depend on it (`archwright plan examples/desk/needs.yaml` writes one).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
EXAMPLES = ("clinic", "desk", "manufacturer", "startup")
DESIGN_VERBS = (
    "init -o needs.yaml",
    "plan needs.yaml -o plan.json",
    "plan needs.yaml --what-if budget.per_month=900",
    "explain plan.json",
    "explain plan.json ttft_s",
    "diff plan.json clinic.json",
    "report plan.json -o plan.html",
    "predict serving Llama-3.1-8B --on 1xH100 --load 64x1024+512",
    "predict training Llama-3.1-8B --on 64xH100 --load 256x4096 --tokens 1e9 --usd-per-hour 3",
    "predict embedding all-MiniLM-L6-v2 --on 1xL4",
    "predict image L4 --pixels 50176 --parameters 25e6",
    "predict table L4 --features 40",
    "catalog show H100-SXM-80GB",
    "catalog check",
    "catalog diff plan.json",
    "settings",
    "doctor",
)
RUN_VERBS = (
    "models fetch SmolLM2-135M-Instruct",
    "data ingest digits --name digits --licence CC0-1.0",
    "data refine refine.yaml",
    "data list",
    "data show digits-clean@v1",
    "train train.yaml",
    "runs list",
    "models list",
    "tenant create acme",
    "tenant list",
    "tenant limit acme --rpm 100",
    "tenant content acme --traced",
    "key create --tenant acme --user ann",
    "key list",
    "user list",
    "user limit acme ann --rpm 10",
    "up plan.json --detach --port 0",
    "status",
    "ask hello --max-tokens 4",
    "bench",
    "reconcile",
    "usage",
    "audit list --limit 3",
    "audit verify",
    "down --dry-run",
    "down",
)
BY_ID = (
    ("run", "runs show {}"),
    ("run", "runs resume {}"),
    ("model", "models show {}"),
    ("model", "models evaluate {}"),
    ("model", "models promote {} --dry-run"),
    ("model", "models promote {}"),
    ("model", "lineage {}"),
    ("key", "key limit {} --rpm 5"),
    ("key", "key rotate {} --overlap-hours 1"),
    ("key", "key revoke {}"),
)
AFTER = ("models history", "models rollback digits --dry-run", "models rollback digits")
REFUSED = (
    "catalog refresh --from-dir empty",
    "predict data c7i.4xlarge --gib 200",
    "plan absent.json",
    "plan needs.yaml --what-if nothing=1",
    "explain plan.json nothing",
    "catalog show nothing",
    "models show nothing",
    "runs show nothing",
    "data show nothing",
    "key revoke nothing",
    "predict serving nothing --on 1xH100",
    "bench http://127.0.0.1:9/v1",
)


class Recorder:
    """Runs verbs of one checkout in one working folder with a home of its own."""

    def __init__(self, checkout: Path, folder: Path) -> None:
        self.checkout, self.folder = checkout, folder
        self.environment = {**os.environ, "ARCHWRIGHT_HOME": str(folder / "home")}
        self.environment.pop("PYTHONPATH", None)
        self.python = checkout / ".venv" / "bin" / "python"

    def run_verb(self, words: str) -> dict[str, Any]:
        """Exit status, JSON of standard output and of standard error (text where it is no JSON)."""
        command: list[str | Path] = [self.python, HERE / "run_verb.py", *words.split(), "--json"]
        done = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)
        return {"status": done.returncode, "out": read_json(done.stdout), "error": read_json(done.stderr)}

    def run_tool(self, *words: str, **environment: str) -> str:
        """Standard output of a Python program of the checkout."""
        done = subprocess.run(
            [self.python, *words],
            cwd=self.checkout,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            text=True,
        )
        return done.stdout


def read_json(text: str) -> Any:
    """The JSON value or values of a text, else the text."""
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        return [json.loads(line) for line in text.splitlines()]
    except ValueError:
        return text


def write_inputs(folder: Path) -> None:
    """Files that the verbs read: a table of 8 x 8 images, a recipe, a specification."""
    (folder / "empty").mkdir()
    (folder / "digits").mkdir()
    noise, rows = random.Random(7), [",".join(f"p{i}" for i in range(64)) + ",label"]
    for label in (0, 1, 2, 3) * 100:
        rows.append(",".join(str(9 * (i % 4 == label) + noise.randrange(7)) for i in range(64)) + f",{label}")
    (folder / "digits" / "digits.csv").write_text("\n".join(rows) + "\n")
    (folder / "refine.yaml").write_text("from: digits\ninto: digits-clean\nsteps:\n  - drop-duplicates: {}\n")
    (folder / "train.yaml").write_text(
        "name: digits\ntask: tabular-classifier\ndataset: digits-clean\nsteps: 40\n"
        "checkpoint_every_steps: 10\ncolumns: {label: label}\n"
    )


def record_verbs(recorder: Recorder) -> dict[str, Any]:
    found = {words: recorder.run_verb(words) for words in (*DESIGN_VERBS, *RUN_VERBS)}
    ids = {
        "run": last_id(found["runs list"]["out"]),
        "model": last_id(found["models list"]["out"]),
        "key": last_id(found["key list"]["out"]),
    }
    for kind, words in BY_ID:
        found[words] = recorder.run_verb(words.format(ids[kind]))
    found |= {words: recorder.run_verb(words) for words in AFTER}
    failed = [words for words, result in found.items() if result["status"]]
    if failed:
        raise SystemExit(f"verbs that must succeed failed: {failed}")
    return found | {words: recorder.run_verb(words) for words in REFUSED}


def last_id(rows: Any) -> str:
    return str(rows[-1]["id"]) if isinstance(rows, list) and rows else "none"


def record(recorder: Recorder, output: Path, truth: Path | None) -> None:
    write_inputs(recorder.folder)
    for name in EXAMPLES:
        needs = recorder.checkout / "examples" / name / "needs.yaml"
        recorder.run_verb(f"plan {needs} -o {name}.json")
        shutil.copy(recorder.folder / f"{name}.json", output / f"plan-{name}.json")
    (output / "verbs.json").write_text(json.dumps(record_verbs(recorder), indent=1, sort_keys=True))
    for name in ("predictions", "capacities"):
        (output / f"{name}.txt").write_text(recorder.run_tool(f"tests/gate/test_{name}.py"))
    plugin = {"PYTHONPATH": str(HERE), "RAW_RECORD": str(output / "http.json")}
    print(recorder.run_tool("-m", "pytest", "-p", "raw_replies", "tests/serving/raw/test_cases.py", **plugin)[-200:])
    if truth is not None:
        words = f"accuracy {truth / 'inference.csv'}"
        (output / "accuracy.json").write_text(json.dumps(recorder.run_verb(words)["out"], indent=1))
        recorder.run_tool("-m", "bench.sizing.score", str(truth), "-o", str(output / "accuracy.md"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--checkout", type=Path, default=HERE.parent.parent)
    parser.add_argument("--truth", type=Path)
    parser.add_argument("--machine", type=Path, required=True)
    given = parser.parse_args()
    output = given.output.absolute()
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="record-") as name:
        folder = Path(name)
        (folder / "home" / "measured").mkdir(parents=True, mode=0o700)
        shutil.copy(given.machine, folder / "home" / "measured" / "machine.json")
        record(Recorder(given.checkout.absolute(), folder), output, given.truth and given.truth.absolute())
    return 0


if __name__ == "__main__":
    sys.exit(main())
