"""The request parser against the grammar of RFC 9112 and h11: a small share at each commit, 5 million cases nightly."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from .parser_differential import check_cases

ROOT = Path(__file__).parents[3]


def test_the_parser_reads_as_the_grammar_and_h11_do() -> None:
    kinds = check_cases(seed=1, count=25_000)
    assert min(kinds["accepted"], kinds["refused"]) > 5_000, kinds


@pytest.mark.nightly
def test_5_million_cases_of_the_parser() -> None:
    """Two processes: one with the same seed every night, one with a new seed."""
    seeds = (2, secrets.randbits(48))
    command = [sys.executable, "-m", "tests.serving.fuzz.parser_differential"]
    started = [subprocess.Popen([*command, str(seed), "2500000"], cwd=ROOT, stdout=subprocess.PIPE) for seed in seeds]
    results = [process.communicate()[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], f"seeds {seeds}: see the error above"
    assert sum(json.loads(result)["accepted"] for result in results) > 1_000_000
