"""How fast data files are written, verified, read and digested, and how large they are, beside pyarrow alone.

    python -m bench.data.table_files [--corpus FOLDER] [--megabytes 64] [--rounds 3]

Two tables: texts of the corpus (JSON lines with a field text), and random numbers of four decimals, as a sensor's CSV
has them. The reference is pyarrow without ids, checksums and digests, in the same run. The median round counts; rates
are MB of Arrow memory of the reference's columns per second of CPU time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from archwright.contract.lineage import DataFile
from archwright.lake.tables import data_files
from archwright.lake.tables.value_digest import ValueDigest

Row = tuple[str, Callable[[], object]]


def read_texts(folder: Path, size: int) -> Any:
    texts: list[str] = []
    for path in sorted(folder.rglob("*.jsonl")):
        for line in path.read_bytes().splitlines():
            texts.append(json.loads(line)["text"])
            if (size := size - len(line)) <= 0:
                return pa.table({"text": pa.array(texts, pa.large_string())})
    return pa.table({"text": pa.array(texts, pa.large_string())})


def draw_numbers(size: int) -> Any:
    drawn = np.random.default_rng(1)
    rows = size // 64
    numbers = {f"x{column}": np.round(drawn.normal(size=rows), 4) for column in range(7)}
    return pa.table({**numbers, "n": drawn.integers(0, 1000, rows)})


def add_system_columns(table: Any) -> Any:
    rows = np.arange(1, table.num_rows + 1)
    ids = np.zeros((len(rows), 16), np.uint8)
    ids[:, :8] = np.frombuffer(b"8 bytes.", np.uint8)
    ids[:, 8:] = rows.astype(">u8").view(np.uint8).reshape(-1, 8)
    made = pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(rows), [None, pa.py_buffer(ids.tobytes())])
    names = pa.array(["data/file"], pa.large_string()).take(pa.array(np.zeros(len(rows), np.int64)))
    system = {"record_id": made, "source_file": names, "source_row": rows}
    return pa.table(system | dict(zip(table.column_names, table.columns, strict=True)))


def measure_rate(size: int, rounds: int, work: Callable[[], object]) -> float:
    times = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return size / 1e6 / statistics.median(times)


def digest_table(table: Any) -> str:
    values = ValueDigest()
    for batch in table.to_batches(max_chunksize=65536):
        values.add(batch)
    return values.hexdigest()


def read_all(batches: Iterable[Any]) -> int:
    return sum(batch.num_rows for batch in batches)


def compare(name: str, table: Any, folder: Path, rounds: int) -> None:
    whole, size = add_system_columns(table), table.nbytes
    made: list[DataFile] = []
    plain = folder / "plain.parquet"
    group = max(1, table.num_rows * data_files.GROUP_BYTES // size)

    def write_ours(level: int) -> None:
        data_files.COMPRESSION_LEVEL = level
        made.append(data_files.write_file(folder, f"{name}-{level}.parquet", whole, 0))

    def read_ours() -> int:
        stored = data_files.StoredFile(folder, made[-1], "bench")
        data_files.verify_file(stored, again=True)
        return read_all(data_files.read_file(stored))

    def read_plain() -> int:
        with pq.ParquetFile(plain, pre_buffer=False) as file:
            return read_all(file.read_row_group(number) for number in range(file.num_row_groups))

    def write_plain(level: int) -> None:
        pq.write_table(table, plain, row_group_size=group, compression="zstd", compression_level=level)

    print(f"{name}: {table.num_rows:,} rows, {size / 1e6:.0f} MB of Arrow memory")
    for level in (3, 1):
        ours = measure_rate(size, rounds, lambda level=level: write_ours(level))  # type: ignore[misc]
        theirs = measure_rate(size, rounds, lambda level=level: write_plain(level))  # type: ignore[misc]
        ratio = made[-1].size_bytes / plain.stat().st_size
        print(f"  write, zstd {level}: {ours:.0f} MB/s, pyarrow {theirs:.0f}: {ours / theirs:.2f} of it")
        print(
            f"    file: {made[-1].size_bytes / 1e6:.2f} MB, pyarrow {plain.stat().st_size / 1e6:.2f}: {ratio:.3f} of it"
        )
    ours, theirs = measure_rate(size, rounds, read_ours), measure_rate(size, rounds, read_plain)
    print(f"  verify and read: {ours:.0f} MB/s, pyarrow {theirs:.0f}: {ours / theirs:.2f} of it")
    print(f"  digest of values: {measure_rate(size, rounds, lambda: digest_table(table)):.0f} MB/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--megabytes", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    size = options.megabytes * 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        if options.corpus:
            compare("texts", read_texts(options.corpus, size), Path(folder), options.rounds)
        compare("numbers", draw_numbers(size), Path(folder), options.rounds)


if __name__ == "__main__":
    main()
