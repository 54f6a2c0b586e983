"""Run data, training and lifecycle on real input, command by command.

    python -m examples.full.demo

You can type every line that starts with $ yourself. The exit status is 0 only if every step succeeded: a killed run
was resumed to its end, the gates passed, and the lineage of an answer reached its source files.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from examples.desk.demo import ARCHWRIGHT, OUTPUT, run, stop_with_parent
from examples.full import corpus

HERE = Path(__file__).parent
QUESTION = "What does Python's json.dumps do?"
TENANT = "demo"
DOCUMENT_QUESTION, DOCUMENT_SOURCE = "What is augmented assignment?", "augassign"


def read_json(*words: str) -> Any:
    """Run a verb and return the JSON that it prints."""
    return json.loads(run(*words, "--json", show=False))


def require(holds: bool, what: str) -> None:
    if not holds:
        raise SystemExit(f"a check of the demo failed: {what}")


def ingest_data(folder: Path) -> None:
    print(f"\ncorpora with clear licences, written to {folder}", flush=True)
    print(f"  qa {corpus.write_questions(folder / 'qa'):,} rows")
    print(f"  handbook {corpus.write_handbook(folder / 'handbook')} topics")
    print(f"  digits {corpus.write_digits(folder / 'digits' / 'digits.csv'):,} rows", flush=True)
    print(f"  shuttle sha256 {corpus.write_shuttle(folder / 'shuttle' / 'shuttle.csv.gz')[:12]}", flush=True)
    for name, licence in (
        ("qa", "PSF-2.0"),
        ("handbook", "PSF-2.0"),
        ("digits", "CC-BY-4.0"),
        ("shuttle", "CC-BY-4.0"),
    ):
        run("data", "ingest", str(folder / name), "--name", name, "--licence", licence)
    again = read_json("data", "ingest", str(folder / "qa"), "--name", "qa")
    for name in ("qa", "handbook"):
        run("data", "refine", str(HERE / f"refine-{name}.yaml"))
    run("data", "list")
    versions = {version["id"]: version for version in read_json("data", "list")}
    raw, clean = versions[again["id"]], max((v for v in versions.values() if v["dataset"] == "qa-clean"), key=_number)
    broken = sum(count for reason, count in raw["drops"].items() if "quarantine" in reason)
    require(broken == len(corpus.PLANTED_BROKEN), "every broken line is quarantined")
    require(sum(clean["drops"].values()) > 0, "duplicates are dropped, with their reason")
    for kind in ("email", "phone", "card", "iban", "ip"):
        require(clean["changes"].get(kind, 0) >= len(corpus.PLANTED_PERSONAL), f"{kind} is redacted")


def _number(version: dict[str, Any]) -> int:
    return int(version["version"])


def train_killed_and_resumed() -> dict[str, Any]:
    """Start the fine-tuning, kill it with SIGKILL half-way, resume it to the end."""
    before = {run["id"] for run in read_json("runs", "list")}
    spec = str(HERE / "train-assistant.yaml")
    print(f"\n$ archwright train {spec}", flush=True)
    process = subprocess.Popen([*ARCHWRIGHT, "train", spec])
    while True:
        if process.poll() is not None:
            raise SystemExit(f"archwright train ended with status {process.returncode} before it could be killed")
        mine = [run for run in _quiet("runs", "list") if run["id"] not in before]
        if mine and mine[0]["step"] >= mine[0]["steps"] // 2:
            break
        time.sleep(3.0)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    print(f"\n  kill -9 at step {mine[0]['step']} of {mine[0]['steps']}", flush=True)
    run("runs", "list")
    run("runs", "resume", mine[0]["id"])
    found = next(run for run in read_json("runs", "list") if run["id"] == mine[0]["id"])
    require(found["status"] == "finished" and bool(found["resumed"]), "the killed run was resumed to its end")
    return dict(found)


def _quiet(*words: str) -> Any:
    done = subprocess.run([*ARCHWRIGHT, *words, "--json"], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def call(url: str, key: str, path: str, body: object) -> tuple[dict[str, Any], str, str]:
    """Call the gateway; return the reply, the request id and the model version."""
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    request = urllib.request.Request(f"{url}{path}", data=json.dumps(body).encode(), headers=headers)
    with urllib.request.urlopen(request, timeout=120) as reply:
        return json.load(reply), reply.headers["x-request-id"], reply.headers["x-archwright-model"]


def ask(url: str, key: str) -> tuple[str, str]:
    """Ask the question and print the answer; return its request id and model version."""
    body = {
        "model": "assistant",
        "max_tokens": 48,
        "temperature": 0,
        "messages": [{"role": "user", "content": QUESTION}],
    }
    reply, request_id, model = call(url, key, "/v1/chat/completions", body)
    text = reply["choices"][0]["message"]["content"].replace("\n", "\n    ")
    print(f"\nPOST {url}/v1/chat/completions  {QUESTION}\n  {model}, request {request_id}:\n    {text}", flush=True)
    return request_id, model


def ask_documents(url: str, key: str) -> None:
    """Ask about the handbook, and print the answer with its sources. Without an embedder, keywords find passages."""
    run("data", "policy", "handbook", "--tenant", TENANT)  # the refined data set inherits it
    run("data", "index", "handbook-clean")
    run("data", "search", "handbook-clean", DOCUMENT_QUESTION, "--limit", "2", "--tenant", TENANT)
    messages = [{"role": "user", "content": DOCUMENT_QUESTION}]
    body = {"model": "rag:handbook-clean", "max_tokens": 64, "temperature": 0, "messages": messages}
    reply, request_id, model = call(url, key, "/v1/chat/completions", body)
    text = reply["choices"][0]["message"]["content"].replace("\n", "\n    ")
    print(f"\nPOST {url}/v1/chat/completions  {DOCUMENT_QUESTION}\n  {model}, request {request_id}:\n    {text}")
    for one in reply["citations"]:
        print(f"  [{one['number']}] {one['file']}, characters {one['start']} to {one['end']}", flush=True)
    files = [one["file"] for one in reply["citations"]]
    require(bool(files) and files[0].startswith(DOCUMENT_SOURCE), "the answer names the file that holds it")


def predict(url: str, key: str, name: str, inputs: list[list[float]], truth: list[str]) -> None:
    reply, request_id, model = call(url, key, f"/v1/predict/{name}", {"inputs": inputs})
    labels = [found["label"] for found in reply["predictions"]]
    right = sum(label == true for label, true in zip(labels, truth, strict=True))
    print(f"\nPOST {url}/v1/predict/{name}  {model}, request {request_id}: {right} of {len(truth)} correct", flush=True)
    require(right >= 0.9 * len(truth), f"{name} predicts at least 90 % of the rows correctly")


def serve_and_change(model: str, classifiers: dict[str, str], folder: Path) -> None:
    """Start with the plan's model; promote, ask, trace and roll back; use the classifiers by the same verbs."""
    plan = str(OUTPUT / "plan.json")
    run("plan", str(HERE / "needs.yaml"), "--best-effort", "-o", plan)
    try:
        started = read_json("up", plan, "--detach", "--port", "0")
        url, key = started["url"], read_json("key", "create", "--tenant", TENANT)["key"]
        ask(url, key)
        run("models", "promote", model)
        request_id, served = ask(url, key)
        require(served == model, "the promoted model answers")
        run("lineage", request_id)
        chain = read_json("lineage", request_id)
        require(
            chain["model"] == model and bool(chain["run"]) and bool(chain["files"]),
            "the lineage of an answer is complete",
        )
        ask_documents(url, key)
        for name, version in classifiers.items():
            run("models", "promote", version)
            predict(url, key, name, *samples(folder, name))
        run("models", "rollback", "assistant")
        require(ask(url, key)[1] != model, "the former model answers after the rollback")
        run("models", "promote", model)
        run("status")
    finally:
        run("down")


def samples(folder: Path, name: str) -> tuple[list[list[float]], list[str]]:
    """Return some rows of a classifier's source, and their labels."""
    file = next((folder / name).iterdir())
    read = gzip.open if file.suffix == ".gz" else open
    with read(file, "rt", encoding="utf-8", newline="") as lines:
        rows = list(csv.reader(lines))[101:151]
    return [[float(value) for value in row[:-1]] for row in rows], [row[-1] for row in rows]


def main() -> int:
    began = time.perf_counter()
    stop_with_parent()
    OUTPUT.mkdir(exist_ok=True)
    folder = OUTPUT / "corpus"
    ingest_data(folder)
    model = train_killed_and_resumed()["model"]
    classifiers = {}
    for name in ("digits", "shuttle"):
        run("train", str(HERE / f"train-{name}.yaml"))
        runs = [found for found in read_json("runs", "list") if found["name"] == name]
        classifiers[name] = max(runs, key=lambda found: found["created_at"])["model"]
    for version in (model, *classifiers.values()):
        run("models", "evaluate", version)
    serve_and_change(model, classifiers, folder)
    for words in (("runs", "list"), ("models", "list"), ("models", "show", model), ("models", "history")):
        run(*words)
    run("data", "show", read_json("models", "show", model)["lineage"]["dataset_version"])
    print(f"\nthe demo took {time.perf_counter() - began:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
