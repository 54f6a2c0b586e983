"""How fast files are ingested, and in how much memory, beside pyarrow that reads and writes the same rows.

    python -m bench.data.ingest [--sizes 30 300 3000] [--formats csv jsonl parquet texts] [--folder FOLDER]

The rows have seven columns: whole numbers, a phrase, decimals, true or false, a category, a time, a number with gaps.
`texts` are documents of 4 KB in files of their own. Each run is a process of its own; rates are MB of source per second
of CPU time, start-up included. The reference reads with pyarrow's reader of the format and writes Parquet with zstd.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

WORDS = [
    "the",
    "gateway",
    "counts",
    "tokens",
    "of",
    "every",
    "request",
    "and,",
    "if",
    "a",
    "limit",
    "is",
    "reached,",
    "refuses",
    "it",
    "with",
    "a",
    "reason",
]
BLOCK_ROWS = 20_000
TEXT_BYTES = 4096


def draw_rows(count: int) -> list[dict[str, object]]:
    drawn = random.Random(1)
    return [
        {
            "id": number,
            "phrase": " ".join(drawn.choices(WORDS, k=6)),
            "price": round(drawn.random() * 1000, 2),
            "flag": drawn.random() < 0.5,
            "category": drawn.choice(["red", "green", "blue"]),
            "at": f"2026-0{drawn.randint(1, 9)}-1{drawn.randint(0, 9)}T12:00:{drawn.randint(10, 59)}",
            "count": drawn.randint(0, 10**6) if drawn.random() < 0.9 else None,
        }
        for number in range(count)
    ]


def write_source(folder: Path, form: str, megabytes: int) -> int:
    """Write one file (or many texts) of about `megabytes`. Returns the bytes."""
    folder.mkdir()
    if form == "texts":
        drawn = random.Random(1)
        for number in range(megabytes * 1_000_000 // TEXT_BYTES):
            place = folder / f"{number // 1000}"
            place.mkdir(exist_ok=True)
            (place / f"{number}.txt").write_text(" ".join(drawn.choices(WORDS, k=TEXT_BYTES // 6))[:TEXT_BYTES])
        return sum(path.stat().st_size for path in folder.rglob("*.txt"))
    path, rows = folder / f"a.{form}", draw_rows(BLOCK_ROWS)
    if form == "parquet":
        table = pa.Table.from_pylist(rows)
        with pq.ParquetWriter(path, table.schema) as writer:
            while path.stat().st_size < megabytes * 1_000_000:
                writer.write_table(table)
        return path.stat().st_size
    block = io.StringIO()
    if form == "csv":
        csv.DictWriter(block, list(rows[0])).writerows(rows)
    else:
        block.writelines(json.dumps(row) + "\n" for row in rows)
    with path.open("w", newline="", encoding="utf-8") as file:
        if form == "csv":
            csv.writer(file).writerow(rows[0])
        while file.tell() < megabytes * 1_000_000:
            file.write(block.getvalue())
    return path.stat().st_size


def read_batches(folder: Path, form: str) -> Iterator[pa.RecordBatch]:
    path = folder / f"a.{form}"
    if form == "csv":
        yield from pyarrow.csv.open_csv(path)
    elif form == "jsonl":
        yield from pyarrow.json.open_json(path)
    elif form == "parquet":
        yield from pq.ParquetFile(path).iter_batches()
    else:
        for text in sorted(folder.rglob("*.txt")):
            yield pa.record_batch({"text": [text.read_text(encoding="utf-8")]})


def copy_by_pyarrow(folder: Path, form: str, target: Path) -> None:
    writer = None
    for batch in read_batches(folder, form):
        writer = writer or pq.ParquetWriter(target, batch.schema, compression="zstd")
        writer.write_batch(batch)
    if writer is not None:
        writer.close()


def measure(words: list[str]) -> tuple[float, float, float]:
    """Run a process. Returns (wall seconds, CPU seconds, peak resident MiB)."""
    program = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
sys.exit(done.returncode)
"""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
    cpu, peak = map(float, done.stdout.split())
    return time.perf_counter() - began, cpu, peak


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[30, 300], help="MB of source")
    parser.add_argument("--formats", nargs="+", default=["csv", "jsonl", "parquet", "texts"])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--memory-gib", type=float, default=0.0, help="limit of address space for ingest (0: none)")
    parser.add_argument("--reference", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.reference:
        folder, form, target = arguments.reference
        copy_by_pyarrow(Path(folder), form, Path(target))
        return 0
    for form in arguments.formats:
        for size in arguments.sizes:
            with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
                source = Path(scratch) / "source"
                megabytes = write_source(source, form, size) / 1e6
                limit = f"ulimit -v {int(arguments.memory_gib * 1048576)}; " if arguments.memory_gib else ""
                words = (
                    f"{limit}ARCHWRIGHT_HOME={scratch}/home exec {sys.executable} -P -m archwright data ingest {source}"
                )
                wall, cpu, peak = measure(["sh", "-c", f"{words} --name bench"])
                _, same_cpu, _ = measure(["sh", "-c", f"{words} --name bench"])
                words_of_reference = [
                    "-m",
                    "bench.data.ingest",
                    "--reference",
                    str(source),
                    form,
                    f"{scratch}/copy.parquet",
                ]
                _, other, other_peak = measure([sys.executable, *words_of_reference])
            rate = f"{megabytes / cpu:6.1f} MB/s of CPU, {wall:.1f} s wall, peak {peak:,.0f} MiB"
            reference = f"pyarrow {megabytes / other:.1f} MB/s, peak {other_peak:,.0f} MiB: {other / cpu:.0%} of it"
            print(f"{form:8}{megabytes:6,.0f} MB: {rate}; nothing changed {same_cpu:.1f} s; {reference}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
