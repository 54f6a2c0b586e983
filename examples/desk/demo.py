"""Run the main job on this machine, command by command: measure, plan, start, ask, compare, stop.

You can type every line that starts with $ yourself. The demo asks for 40 % of what the engine of this machine carries:
near its limit, a queue would hide whether the method is right. The plan is made with --best-effort, so a slow or busy
machine runs the demo too; the plan then lists the limits that it may miss. The exit status is 0 only if every step
succeeded.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).parent
OUTPUT = Path("demo")
ARCHWRIGHT = [sys.executable, "-P", "-m", "archwright"]
# The answer of needs.yaml, and the line that states its rate.
ANSWER_TOKENS = 60
RATE_LINE = "requests_per_second: {mean: 0.1, peak: 0.3}"
USE = 0.4
PARENT_POLL_S = 0.5
# Chosen by trial: the small model of the demo answers it well.
QUESTION = "What is machine learning, in one sentence?"
# The demo has no data sets whose place could be checked.
NOTHING_TO_CHECK = {"platform.residency.held"}


def run(*words: str, show: bool = True) -> str:
    """Run one verb as a person types it; print its output, or return it if `show` is false."""
    print(f"\n$ archwright {' '.join(words)}", flush=True)
    done = subprocess.run([*ARCHWRIGHT, *words], stdout=None if show else subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"archwright {words[0]} ended with status {done.returncode}")
    return done.stdout or ""


def stop_with_parent() -> None:
    """Exit, which takes the platform down, at SIGTERM and when the parent dies: kill -9 of make ends only make."""
    parent = os.getppid()

    def watch_parent() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_POLL_S)
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    threading.Thread(target=watch_parent, daemon=True).start()


def choose_rate() -> float:
    """Let a plan measure the engine, and return the requests/s that use 40 % of it at the present speed."""
    needs = str(HERE / "needs.yaml")
    plan = json.loads(run("plan", needs, "--best-effort", "--json", show=False))
    predicted = {prediction["id"]: prediction["estimate"] for prediction in plan["predictions"]}
    tokens_per_s = float(predicted["assistant.tokens_per_s.rate"]["value"])
    (pool,) = plan["pools"]
    rate = USE * tokens_per_s / ANSWER_TOKENS
    print(f"  {pool['launch']['settings']['threads']} threads, {pool['slots']} slots: {tokens_per_s:.1f} tokens/s")
    print(f"  the demo asks for 40 % of this: {rate:.2f} requests/s of {ANSWER_TOKENS} tokens")
    return rate


def write_needs(rate: float) -> str:
    """Write the needs of the example with this peak rate, and return the path."""
    text = (HERE / "needs.yaml").read_text(encoding="utf-8")
    line = f"requests_per_second: {{mean: {rate / 3:.3f}, peak: {rate:.3f}}}"
    if RATE_LINE not in text:
        raise SystemExit(f"examples/desk/needs.yaml has no line {RATE_LINE}")
    path = OUTPUT / "needs.yaml"
    path.write_text(text.replace(RATE_LINE, line), encoding="utf-8")
    return str(path)


def ask(url: str, key: str) -> None:
    """Ask over HTTP, as any OpenAI client does; print the answer as it streams in."""
    print(f"\nPOST {url}/v1/chat/completions  (streamed)\n  {QUESTION}\n  ", end="", flush=True)
    messages = [{"role": "user", "content": QUESTION}]
    body = {"model": "assistant", "stream": True, "max_tokens": 64, "temperature": 0, "messages": messages}
    request = urllib.request.Request(
        f"{url}/v1/chat/completions",
        data=json.dumps(body).encode(),
        headers={"authorization": f"Bearer {key}", "content-type": "application/json"},
    )
    pieces, began, first = 0, time.perf_counter(), 0.0
    with urllib.request.urlopen(request, timeout=60) as reply:
        for line in reply:
            if not line.startswith(b"data: {"):
                continue
            for choice in json.loads(line[6:]).get("choices", []):
                text = choice["delta"].get("content") or ""
                if text:
                    first = first or time.perf_counter()
                    pieces += 1
                    print(text.replace("\n", "\n  "), end="", flush=True)
    if not pieces:
        raise SystemExit("the model returned an empty answer")
    print(f"\n  ({pieces} pieces, the first after {first - began:.2f} s)", flush=True)


def main() -> int:
    began = time.perf_counter()
    stop_with_parent()
    OUTPUT.mkdir(exist_ok=True)
    plan = str(OUTPUT / "plan.json")
    run("plan", write_needs(choose_rate()), "--best-effort", "-o", plan)
    try:
        started = json.loads(run("up", plan, "--detach", "--port", "0", "--json", show=False))
        print(f"  running at {started['url']}/v1", flush=True)
        run("status")
        key = json.loads(run("key", "create", "--tenant", "demo", "--json", show=False))["key"]
        print(f"  tenant demo, key {key[:7]}...", flush=True)
        ask(started["url"], key)
        run("bench", "--against", plan)
        report = run("reconcile", plan, "--json", show=False)
        (OUTPUT / "reconcile.json").write_text(report, encoding="utf-8")
        deviations = json.loads(report)["deviations"]
        unmeasured = {deviation["prediction_id"] for deviation in deviations if deviation["measured"] is None}
        if unmeasured != NOTHING_TO_CHECK:
            raise SystemExit("a prediction was not measured")
        print(f"  wrote {OUTPUT / 'reconcile.json'}", flush=True)
    finally:
        # Not by `run`, which prints: the reader of the output may be gone.
        subprocess.run([*ARCHWRIGHT, "down"], check=False)
    print(f"\nthe demo took {time.perf_counter() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
