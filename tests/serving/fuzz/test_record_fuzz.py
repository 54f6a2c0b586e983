"""Mutated bodies of every endpoint: no crash, and no reservation or bill outside its bounds."""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .record_stand import BODIES, RecordStand, mutate_bytes, mutate_value

CASES, PROCESSES = 5_000_000, 2
SHORT_CASES = 6_000
SETTLED_SHARE = 0.02
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)
COUNTS = st.integers() | st.booleans() | st.floats() | st.text(max_size=3) | st.none()
COUNT_NAMES = ("prompt_tokens", "completion_tokens", "total_tokens", "input_tokens", "output_tokens")
USAGES = JSON | st.dictionaries(st.sampled_from((*COUNT_NAMES, "cache_read_input_tokens")), COUNTS, max_size=5)


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = RecordStand(tmp_path_factory.mktemp("records"))
    yield made
    made.close()


def encode(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


@settings(max_examples=120, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_json_is_billed_within_its_reservation(stand: RecordStand, data: st.DataObject) -> None:
    """For any JSON and any usage that an engine reports: 0 <= billed <= reserved, and never a 500."""
    path, valid = data.draw(st.sampled_from(BODIES))
    names = st.sampled_from(sorted({*valid, "max_tokens", "n", "best_of", "max_completion_tokens", "top_k"}))
    body = data.draw(JSON | st.dictionaries(names, JSON, max_size=3).map(lambda changed: {**valid, **changed}))
    stand.check(path, encode(body), data.draw(USAGES))


def run_cases(folder: str, seed: int, cases: int) -> Counter[str]:
    """Check mutations of valid bodies; a case that breaks the invariant raises with its body."""
    stand, draw, counts = RecordStand(Path(folder)), random.Random(seed), Counter[str]()
    encoded = [(path, body, encode(body)) for path, body in BODIES]
    for _ in range(cases):
        path, body, data = draw.choice(encoded)
        if draw.random() < 0.75:
            for _ in range(draw.choice((1, 1, 1, 2, 4))):
                body = mutate_value(body, draw)
            data = encode(body)
        else:
            data = mutate_bytes(data, draw)
        usage = {"prompt_tokens": draw.choice((3, -5, 10**9, True))} if draw.random() < SETTLED_SHARE else None
        try:
            counts["served" if stand.check(path, data, usage) else "refused"] += 1
        except Exception as error:
            raise AssertionError(f"{path}: {data!r}") from error
    stand.close()
    return counts


def test_valid_bodies_are_served(stand: RecordStand) -> None:
    served = [stand.check(path, encode(body), {"prompt_tokens": 3, "completion_tokens": 2}) for path, body in BODIES]
    assert [BODIES[number] for number, one in enumerate(served) if not one] == []


def test_mutated_bodies(tmp_path: Path) -> None:
    counts = run_cases(str(tmp_path), 1, SHORT_CASES)
    assert counts["served"] > SHORT_CASES / 20 and counts["refused"] > SHORT_CASES / 4, counts


@pytest.mark.nightly
def test_five_million_mutated_bodies(tmp_path: Path) -> None:
    seed, begun = int(os.environ.get("FUZZ_SEED", time.time())), time.monotonic()
    folders = [tmp_path / str(number) for number in range(PROCESSES)]
    for folder in folders:
        folder.mkdir()
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(run_cases, str(made), seed + at, CASES // PROCESSES) for at, made in enumerate(folders)]
        counts = sum((job.result() for job in jobs), Counter[str]())
    print(f"seed {seed}: {counts} in {time.monotonic() - begun:.0f} s")
    assert counts.total() == CASES
