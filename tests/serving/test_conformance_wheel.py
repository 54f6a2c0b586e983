"""The distribution `gateway-conformance` runs where archwright is absent."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.serving.conftest import free_port

from archwright.reconcile.conformance import suite_report

if TYPE_CHECKING:
    from tests.serving.conftest import Start

DISTRIBUTION = Path(__file__).parents[2] / "packaging" / "gateway-conformance"
STATED = ["--gateway", "archwright", "--gateway-version", "here", "--gateway-change", "null engine"]


@pytest.mark.nightly
@pytest.mark.enable_socket
def test_the_built_wheel_tests_a_gateway_without_archwright(start: Start, tmp_path: Path) -> None:
    """Wheel and sdist are built, and the wheel alone is installed. The null engine answers behind our gateway."""
    dist, place = tmp_path / "dist", tmp_path / "venv"
    build = [sys.executable, "-m", "build", "--outdir", str(dist), str(DISTRIBUTION)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {Path(member.name).name: member for member in archive.getmembers()}
        assert all(names[path.name].isfile() for path in suite_report.FOLDER.glob("*.py"))
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    python = str(place / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", str(wheel)], check=True)
    absent = subprocess.run([python, "-I", "-c", "import archwright"], capture_output=True, check=False)
    assert absent.returncode != 0
    priced: dict[str, Any] = {"price_in_usd": 1e-6, "price_out_usd": 4e-6, "slots": 16}
    platform = start([priced], [{}], admin_port=free_port())
    admin = f"http://127.0.0.1:{platform.config.admin_port}/admin"
    words = ["--key-env", "KEY", "--price", "1:4", "--admin", admin, "--requests", "4", "--json", *STATED]
    command = [str(place / "bin" / "gateway-conformance"), platform.url, *words]
    run = subprocess.run(command, env={"KEY": platform.owner}, capture_output=True, text=True, check=False)
    result = json.loads(run.stdout)
    assert result["suite"]["digest"] == suite_report.identify_suite().digest
    assert result["gateway"]["changes"] == ["null engine"]
    verdicts = {case["case"]: case["verdict"] for case in result["cases"]}
    assert verdicts["concurrent requests"] == "ok" and "overspent" not in verdicts.values()
