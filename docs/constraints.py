"""Writes constraints.txt from the environment it runs in: versions only, no addresses, no local builds.

`python docs/constraints.py` in an environment with every extra installed. A plain freeze would pin "+cpu" builds
that exist nowhere else, and archwright itself.
"""

from __future__ import annotations

import sys
from importlib.metadata import distributions
from pathlib import Path

OURS = {"archwright", "pip", "setuptools", "wheel"}
HEAD = "# Versions that install and pass together. Made by docs/constraints.py in a clean environment; pins only.\n"


def main() -> int:
    pins = {d.metadata["Name"]: d.version.partition("+")[0] for d in distributions()}
    lines = [f"{name}=={version}\n" for name, version in pins.items() if name.lower() not in OURS]
    target = Path(__file__).parent.parent / "constraints.txt"
    target.write_text(HEAD + "".join(sorted(lines, key=str.lower)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
