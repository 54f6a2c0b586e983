"""Did capacities move? A few machines under one load, frozen: a change here is meant, or it is a mistake.

After a new fit `python tests/gate/test_capacities.py` prints the new figures.
"""

from __future__ import annotations

import pytest

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.csv_table import DATA
from archwright.contract.needs import SLO, TokenLength
from archwright.sizing.hardware.machine import Machine
from archwright.sizing.inference.serving_capacity import TextLoad, size_text_serving

CATALOG = Catalog(DATA)
LOAD = TextLoad(
    "gate", TokenLength(mean=1800, p95=4200), TokenLength(mean=220, p95=600), SLO(ttft_p95_s=1.0, tpot_p95_s=0.05)
)
MACHINES = (
    ("Llama-3.1-8B-Instruct", "L4", 1),
    ("Llama-3.1-8B-Instruct", "H100-SXM-80GB", 1),
    ("Qwen3-32B", "A100-80GB-SXM", 4),
    ("Llama-3.3-70B-Instruct", "H200-SXM-141GB", 8),
    ("gpt-oss-120b", "MI300X", 8),
    ("DeepSeek-V3", "B200-SXM", 8),
    ("SmolLM2-135M-Instruct", None, 0),
)


def carried(row: tuple[str, str | None, int]) -> tuple[float, int]:
    model, accelerator, count = row
    device = CATALOG.accelerators[accelerator] if accelerator else None
    found = size_text_serving(Machine("m", device, count, 32, 2e11), CATALOG.models[model], LOAD, CATALOG)
    assert found is not None
    return found.requests_per_s.value, found.devices


# Requests/s of the machine, accelerators of one engine.
REQUESTS_PER_S = (
    (0.22377, 1),
    (17.882, 1),
    (1.9005, 4),
    (11.563, 2),
    (92.46, 2),
    (14.407, 8),
    (0.29429, 0),
)


@pytest.mark.parametrize(("row", "expected"), list(zip(MACHINES, REQUESTS_PER_S, strict=True)))
def test_a_machine_carries_what_it_did(row: tuple[str, str | None, int], expected: tuple[float, int]) -> None:
    rate, devices = carried(row)
    assert rate == pytest.approx(expected[0], rel=0.002)
    assert devices == expected[1]


if __name__ == "__main__":
    for machine in MACHINES:
        rate, devices = carried(machine)
        print(f"    ({rate:.5g}, {devices}),")
