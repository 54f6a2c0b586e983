"""Run the main job on this machine, command by command: plan, start, ask, measure, compare, stop.

You can type every line that starts with $ yourself. The plan is made with --best-effort, so a slow or busy machine
runs the demo too; the plan then lists the limits that it may miss. The exit status is 0 only if every step succeeded.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).parent
OUTPUT = Path("demo")
ARCHWRIGHT = [sys.executable, "-m", "archwright"]
# Chosen by trial: the small model of the demo answers it well.
QUESTION = "What is machine learning, in one sentence?"


def run(*words: str, show: bool = True) -> str:
    """Run one verb as a person types it; print its output, or return it if `show` is false."""
    print(f"\n$ archwright {' '.join(words)}", flush=True)
    done = subprocess.run([*ARCHWRIGHT, *words], stdout=None if show else subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"archwright {words[0]} ended with status {done.returncode}")
    return done.stdout or ""


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
    OUTPUT.mkdir(exist_ok=True)
    plan = str(OUTPUT / "plan.json")
    run("plan", str(HERE / "needs.yaml"), "--best-effort", "-o", plan)
    started = json.loads(run("up", plan, "--detach", "--port", "0", "--json", show=False))
    try:
        print(f"  running at {started['url']}/v1", flush=True)
        run("status")
        key = json.loads(run("key", "create", "--tenant", "demo", "--json", show=False))["key"]
        print(f"  tenant demo, key {key[:7]}...", flush=True)
        ask(started["url"], key)
        run("bench", "--against", plan)
        report = run("reconcile", plan, "--json", show=False)
        (OUTPUT / "reconcile.json").write_text(report, encoding="utf-8")
        if any(deviation["measured"] is None for deviation in json.loads(report)["deviations"]):
            raise SystemExit("a prediction was not measured")
        print(f"  wrote {OUTPUT / 'reconcile.json'}", flush=True)
    finally:
        run("down")
    print(f"\nthe demo took {time.perf_counter() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
