"""Times `archwright render` as a whole process for every example and target, against `archwright --version`.

    python -m bench.deploy.measure [--repeats 3]

Prints user and system time, since other programs stretch the wall clock. Each round starts both commands once, so that
the ratio holds on a busy machine. To reach: at most 1 s each.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from archwright.contract.plan import Plan
from archwright.deploy.render import list_targets
from archwright.plan.plan_file import read_plan

EXAMPLES = Path(__file__).parents[2] / "examples"
COMMAND = [sys.executable, "-P", "-m", "archwright"]
GOAL_S = 1.0


def time_command(arguments: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([*COMMAND, *arguments], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(name: str, plan: Plan, file: Path, repeats: int) -> bool:
    """Print a line for each target; True if all reach the goal."""
    reached = True
    for target in list_targets():
        if not any(target.can_render(option) for option in plan.options):
            continue
        rendered, started = [], []
        for _ in range(repeats):
            with tempfile.TemporaryDirectory() as folder:
                rendered.append(time_command(["render", str(file), "--target", target.name, "-o", folder]))
            started.append(time_command(["--version"]))
        middle, base = statistics.median(rendered), statistics.median(started)
        reached = reached and middle <= GOAL_S
        print(f"{name:14} {target.name:12} {middle:5.2f} s   {middle / base:5.1f} times a start of {base:4.2f} s")
    return reached


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--repeats", type=int, default=3)
    repeats, reached = parser.parse_args().repeats, True
    with tempfile.TemporaryDirectory() as folder:
        for needs in sorted(EXAMPLES.glob("*/needs.yaml")):
            file = Path(folder) / f"{needs.parent.name}.json"
            subprocess.run(
                [*COMMAND, "plan", str(needs), "-o", str(file), "--best-effort"], check=True, stdout=subprocess.DEVNULL
            )
            reached = measure(needs.parent.name, read_plan(file), file, repeats) and reached
    print("every rendering reaches the goal" if reached else f"not every rendering takes at most {GOAL_S:g} s")
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
