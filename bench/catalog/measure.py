"""Times a planner's start with 100,000 refreshed prices: import, load, the offers of one provider, then all of them.

    python bench/catalog/measure.py [--rows 100000] [--repeats 5]

Writes a refreshed layer of made-up prices into a temporary home, then starts a fresh interpreter for every repeat;
prints the median and the worst of wall time and of peak memory. To reach: 0.5 s and 100 MB.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from archwright.catalog.layers import refreshed_layer
from archwright.catalog.layers.refreshed_layer import (
    MachineType,
    PriceOrigin,
    ProviderPrices,
    RefreshedLayer,
    RegionLocation,
)
from archwright.catalog.load import load_catalog
from archwright.home import Home

PROVIDERS = 3
START = """
import json, resource, sys, time
begin = time.perf_counter()
from archwright.catalog.load import load_catalog
from archwright.home import Home
catalog = load_catalog(Home(sys.argv[1]))
offers = catalog.offers if sys.argv[2] == "*" else catalog.offers_of(sys.argv[2])
seconds = time.perf_counter() - begin
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps([seconds, peak, len(offers)]))
"""


def layer(rows: int) -> RefreshedLayer:
    """`rows` prices of three providers: a few hundred machine types in as many regions as it takes."""
    known = load_catalog().shipped_offers
    names = sorted(known, key=lambda name: -len(known[name]))[:PROVIDERS]
    each = rows // len(names)
    return RefreshedLayer(prices={name: prices(name, each) for name in names})


def prices(provider: str, rows: int, types: int = 600) -> ProviderPrices:
    return ProviderPrices(
        machines=tuple(machine(provider, number) for number in range(types)),
        places=tuple(RegionLocation(region=f"region-{number}", geo="EU") for number in range(rows // types + 1)),
        origins=(PriceOrigin(source="made up: bench/catalog/measure.py", as_of="2026-11-24"),),
        machine=[row % types for row in range(rows)],
        place=[row // types for row in range(rows)],
        origin=[0] * rows,
        on_demand=[0.01 * (1 + row % types) for row in range(rows)],
        spot=[0.004 * (1 + row % types) if row % 3 else None for row in range(rows)],
    )


def machine(provider: str, number: int) -> MachineType:
    return MachineType(
        provider=provider,
        instance_type=f"made-up.{number}",
        accelerator=None,
        accelerator_count=0,
        accelerator_share=1.0,
        vcpu=2 * (1 + number),
        ram_bytes=(8 << 30) * (1 + number),
        arch="x86_64",
        local_nvme_bytes=None,
        network_bytes_per_s=None,
        network_note="",
        source="made up",
        as_of="2026-11-24",
    )


def start(home: Path, what: str) -> tuple[float, float, int]:
    run = subprocess.run([sys.executable, "-c", START, str(home), what], capture_output=True, text=True, check=True)
    seconds, peak, count = json.loads(run.stdout)
    return seconds, peak, count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Home(folder)
        made = layer(asked.rows)
        refreshed_layer.write_generation(home.catalog_refreshed, made)
        for what in (next(iter(made.prices)), "*"):
            runs = [start(home.root, what) for _ in range(asked.repeats)]
            seconds, peaks = [run[0] for run in runs], [run[1] for run in runs]
            sys.stdout.write(
                f"{'all offers' if what == '*' else 'one provider'}: {runs[0][2]} offers, "
                f"{statistics.median(seconds):.3f} s (worst {max(seconds):.3f}), "
                f"{statistics.median(peaks):.0f} MB (worst {max(peaks):.0f})\n"
            )


if __name__ == "__main__":
    main()
