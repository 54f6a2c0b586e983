"""Wheels of the checkout and of what it needs, for an installation without a network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.deploy.tools import ROOT


def collect_wheels(folder: Path, constraints: Path, *, python: str, extras: str) -> None:
    """Build our wheel from the checkout, and fetch what it needs with these extras for a version of Python."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(folder), str(ROOT)], check=True)
    (wheel,) = folder.glob("archwright-*.whl")
    platforms = [f"--platform=manylinux{tag}_{os.uname().machine}" for tag in ("2014", "_2_17", "_2_28")]
    fetched = ["--only-binary=:all:", f"--python-version={python}", *platforms, f"--constraint={constraints}"]
    subprocess.run([*pip, "download", *fetched, f"--dest={folder}", f"{wheel}[{extras}]"], check=True)
