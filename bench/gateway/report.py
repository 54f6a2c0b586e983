"""Write the gateway section of docs/benchmarks.md from one run of all measurements.

    python -m bench.gateway.report RESULTS [--references DIR] [--soak FILE] [-o PAGE]

Runs bench, scale and overload one after another, keeps what each found in the folder RESULTS, and writes the page; what
is there already is not measured again (empty the folder for a new run). FILE is the soak.json of a soak, which takes an
hour and is run apart.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from . import bench, overload, scale

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "benchmarks.md"
SECTION = re.compile("(<!-- gateway: begin .*-->\n).*(<!-- gateway: end -->)", re.DOTALL)
ROUNDS = 3
SECONDS = 12.0
# Noise of one interleaved run on a machine with neighbours, as seen between its rounds.
FLAT = 1.15


class Row(NamedTuple):
    figure: str
    limit: str
    found: str
    holds: bool | None  # None: nothing was asked for

    def line(self) -> str:
        verdict = {True: "yes", False: "**no**", None: ""}[self.holds]
        return f"| {self.figure} | {self.limit} | {self.found} | {verdict} |"


def at_most(figure: str, value: float, limit: float, unit: str) -> Row:
    return Row(figure, f"<= {limit:g} {unit}", f"{value:g} {unit}", value <= limit)


def speed(found: dict[str, Any]) -> list[Row]:
    own, raw = found["archwright"], found["raw-work"]
    sat, lat, ssat = own["sat"], own["lat"], own["ssat"]
    rows = [
        Row(
            "CPU per request at saturation, against raw-work",
            "<= 3.3x",
            f"{sat['ratio']}x: {sat['cpu_us']:.0f} us, raw-work {raw['sat']['cpu_us']:.0f} us",
            sat["ratio"] <= 3.3,
        ),
        Row(
            "the same where both get a stream of 16 chunks",
            "",
            f"{own['sat-stream']['ratio']}x: {own['sat-stream']['cpu_us']:.0f} us",
            None,
        ),
    ]
    for name, word in (("tensorzero", "below TensorZero"), ("vllm-router", "beside the vllm-router (1.1x)")):
        if name in found:
            other, most = found[name]["sat"]["cpu_us"], 1.1 if name == "vllm-router" else 1.0
            said = f"{sat['cpu_us']:.0f} us and {other:.0f} us"
            rows.append(Row("CPU per request", word, said, sat["cpu_us"] <= most * other))
    rows += [
        at_most("added latency at 200 requests/s, p50", lat["added_p50_ms"], 0.5, "ms"),
        at_most("added latency at 200 requests/s, p99", lat["added_p99_ms"], 5, "ms"),
        at_most("CPU per streamed chunk at saturation", ssat["cpu_us"], 20, "us"),
        at_most("CPU per streamed chunk at 2,500 chunks/s", own["stream"]["cpu_us"], 35, "us"),
        Row("chunks/s", ">= 30,000", f"{ssat['chunks_per_s']:,.0f}", ssat["chunks_per_s"] >= 30_000),
        at_most("exact hit of the cache", own["hit"]["cpu_us"], 45, "us"),
    ]
    return rows


def scaling(found: dict[str, Any]) -> list[Row]:
    few, many, first = (found["keys"][name] for name in ("few", "many", "first"))
    counts = f"{found['keys']['keys']:,} keys, {found['keys']['tenants']:,} tenants"
    ratio = many["all_keys_cpu_us"] / few["one_key_cpu_us"]
    one, two = found["workers"]["1"], found["workers"]["2"]
    shared = two["cpu_us"] / one["cpu_us"]
    return [
        at_most(f"ready, {counts}", many["ready_s"], 0.8, "s"),
        Row("ready, one key", "", f"{few['ready_s']} s", None),
        at_most(f"memory (PSS), {counts}, ready", many["idle_mb"], 100, "MB"),
        at_most("the same after all load", many["loaded_mb"], 100, "MB"),
        Row("memory (PSS), one key: ready, after load", "", f"{few['idle_mb']} MB, {few['loaded_mb']} MB", None),
        Row(
            f"CPU per request spread over {first['keys']:,} of them, against one key alone",
            f"flat (<= {FLAT}x)",
            f"{ratio:.2f}x: {many['all_keys_cpu_us']:.0f} us and {few['one_key_cpu_us']:.0f} us",
            ratio <= FLAT,
        ),
        Row(
            "CPU of the first request of each key",
            f"flat (<= {FLAT}x)",
            f"{first['cpu_us']:,.0f} us; p99 {first['p99_ms']:,.0f} ms at 8 connections, {first['errors']:.0f} refused",
            first["cpu_us"] <= FLAT * few["one_key_cpu_us"],
        ),
        Row(
            "CPU per request of two workers, against one",
            f"N workers scale to N cores (<= {FLAT}x)",
            f"{shared:.2f}x: {two['cpu_us']:.0f} us and {one['cpu_us']:.0f} us",
            shared <= FLAT,
        ),
        Row(
            "requests/s of two workers, of one; engine and load on the same two cores",
            "",
            f"{two['rps']:,}, {one['rps']:,}",
            None,
        ),
    ]


def goodput(found: dict[str, Any]) -> list[Row]:
    rows = []
    for name in overload.ENGINES:
        one = found[name]
        shares = ", ".join(f"{share:.0%} at {times}x" for times, share in one["of_peak"].items())
        rows.append(Row(f"goodput, engine of {name}", ">= 90 % of its peak at 3x", f"{shares}", one["holds"]))
    return rows


def soaked(found: dict[str, Any] | None) -> list[Row]:
    if found is None:
        return [Row("soak", "no growth, the bill exact", "not run for this page", None)]
    workers = [one for one in found["processes"] if one["role"] == "worker"]
    memory = max(one["anonymous_mb"]["rise"] for one in workers)
    files = max(one["files"]["rise"] for one in workers)
    befell = ", ".join(f"{name} {count} times" for name, count in found["events"].items())
    what = f"soak of {found['minutes']:g} min, {found['requests']:,} requests, {befell}"
    answered = sum(one["acknowledged"][0] for one in found["books"]["tenants"].values())
    billed = not [fault for fault in found["faults"] if "rises" not in fault and "rise:" not in fault]
    return [
        Row(
            f"{what}. Growth of a worker's memory and descriptors over the second half",
            "no growth (<= 3 MB, <= 10)",
            f"{memory:+.2f} MB, {files:+.1f}",
            memory <= 3 and files <= 10,
        ),
        Row(
            "the same soak: each answer is billed once",
            "exact",
            f"{answered:,} answers; faults: {found['faults'] or 'none'}",
            billed,
        ),
    ]


def beside(found: dict[str, Any]) -> list[str]:
    """Rows of the other gateways in the same run."""
    lines = []
    for name, one in found.items():
        if not isinstance(one, dict) or name == "direct":
            continue
        sat = one["sat"]
        stream, lat, steady, ssat = (one.get(phase) for phase in ("sat-stream", "lat", "stream", "ssat"))
        cells = [
            name,
            f"{sat['cpu_us']:,.0f} ({sat['ratio']}x)",
            f"{stream['cpu_us']:,.0f} ({stream['ratio']}x)" if stream else "",
            f"{sat['rps']:,.0f}",
            _added(name, lat),
            f"{steady['cpu_us']:,.1f}" if steady else "",
            f"{ssat['cpu_us']:,.1f}" if ssat else "",
            f"{ssat['chunks_per_s']:,.0f}" if ssat else "",
            f"{one['idle_mb']:.0f} / {max(part['memory_mb'] for part in one.values() if isinstance(part, dict)):.0f}",
            f"{one['ready_s']:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _added(name: str, lat: dict[str, float] | None) -> str:
    if lat is None:
        return ""
    # Asked less often than the engine was directly: its own latency, less the 20 ms of the engine.
    if name == "litellm":
        return f"{lat['p50_ms'] - 20:.0f} / {lat['p99_ms'] - 20:.0f} (at 20/s)"
    return f"{lat['added_p50_ms']:.2f} / {lat['added_p99_ms']:.2f}"


def overloaded(found: dict[str, Any]) -> list[str]:
    lines = []
    for name in overload.ENGINES:
        for times, at in found[name]["at"].items():
            useful = " / ".join(f"{share:.0%}" for share in at["useful_share"].values())
            sheds = f"{at['shed_p50_ms']:.0f} / {at['shed_p90_ms']:.0f}"
            cells = [name, f"{times}x", f"{at['goodput_rps']:.1f}", useful, f"{at['shed']}", sheds, f"{at['late']}"]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def machine() -> str:
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    name = cpu[1].strip() if cpu else platform.machine()
    return f"{name}, {os.cpu_count()} cores, {memory:.0f} GiB, Python {platform.python_version()}"


def kept(folder: Path, name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    file = folder / f"{name}.json"
    if not file.exists():
        print(f"{name} ...", flush=True)
        found = {**measure(), "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime()), "machine": machine()}
        file.write_text(json.dumps(found, indent=1))
    done: dict[str, Any] = json.loads(file.read_text())
    return done


def page(found: dict[str, dict[str, Any]], soak: dict[str, Any] | None) -> str:
    rows = [*speed(found["bench"]), *scaling(found["scale"]), *goodput(found["overload"]), *soaked(soak)]
    load = {name: " to ".join(f"{one:.1f}" for one in part["load"]) for name, part in found.items()}
    missing = [f"- {row.figure}: {row.found}; target: {row.limit}." for row in rows if row.holds is False]
    return (
        (HERE / "performance.template.md")
        .read_text()
        .format(
            machine=found["bench"]["machine"],
            date=found["bench"]["date"],
            load=", ".join(f"{name} {words}" for name, words in load.items()),
            rows="\n".join(row.line() for row in rows),
            missing="\n".join(missing) or "Nothing.",
            beside="\n".join(beside(found["bench"])),
            overloaded="\n".join(overloaded(found["overload"])),
            deadline=overload.DEADLINE_S,
            slots=overload.SLOTS,
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--references", type=Path)
    parser.add_argument("--soak", type=Path)
    parser.add_argument("-o", "--out", type=Path, default=PAGE)
    given = parser.parse_args()
    given.results.mkdir(parents=True, exist_ok=True)
    found = {
        "bench": kept(given.results, "bench", lambda: bench.measure(ROUNDS, list(bench.PHASES), given.references)),
        "scale": kept(given.results, "scale", lambda: scale.measure(10_000, 1_000, ROUNDS)),
        "overload": kept(given.results, "overload", lambda: overload.measure(SECONDS)),
    }
    soak = json.loads(given.soak.read_text()) if given.soak else None
    written = page(found, soak)
    given.out.write_text(SECTION.sub(lambda marks: f"{marks[1]}\n{written}\n{marks[2]}", given.out.read_text()))
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
