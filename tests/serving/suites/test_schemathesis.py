"""schemathesis draws requests from the OpenAPI document: no reply is a 5xx, and each one is documented."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .conftest import run_program

if TYPE_CHECKING:
    from tests.serving.conftest import Platform

pytestmark = [pytest.mark.nightly, pytest.mark.enable_socket]

HERE = Path(__file__).parent
CASES, SERVED = 5_000, 300
# A record states less than the checks of messages do. An unknown method of a probe needs a key, as every path does.
# A list with too many items may be larger than a body may be (413).
CONFIGURATION = """
[auth.openapi.bearer]
bearer = "{key}"
[checks]
positive_data_acceptance.enabled = false
negative_data_rejection.expected-statuses = ["400", "401", "403", "404", "405", "413", "429"]
[[operations]]
include-path-regex = "^/(health|healthz|readyz)$"
checks.unsupported_method.enabled = false
"""


def test_no_request_makes_an_undocumented_reply(null: Platform, tmp_path: Path) -> None:
    settings = tmp_path / "schemathesis.toml"
    settings.write_text(CONFIGURATION.format(key=null.owner))
    before = count_served(null)
    run = run_program(
        *("schemathesis", "-m", "schemathesis.cli", "--config-file", str(settings), "run"),
        *(f"{null.url.removesuffix('/v1')}/openapi.json", "--max-examples", "60", "--workers", "1", "--seed", "1"),
        *("--generation-database", "none", "--no-color"),
        cwd=tmp_path,
        SCHEMATHESIS_HOOKS="schemathesis_hooks",
        PYTHONPATH=str(HERE),
    )
    failures = run.stdout.partition(" FAILURES ")[2].partition(" WARNINGS ")[0]
    assert run.returncode == 0, failures[:8000] or run.stdout[-2000:] + run.stderr[-2000:]
    found = re.search(r"(\d+) generated", run.stdout)
    assert found is not None and int(found[1]) >= CASES
    assert count_served(null) - before >= SERVED, "most requests were refused"


def count_served(platform: Platform) -> float:
    series = platform.metrics().items()
    return sum(value for name, value in series if name.startswith("archwright_requests_total") and '"ok"' in name)
