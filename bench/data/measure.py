"""How fast text comes into the lake and through a recipe, and how much memory that takes.

    python bench/data/measure.py [MEGABYTES] [FOLDER]

The text is what every machine with Python has: the sources under its library and site-packages, cut into documents
of about 4 KB, one in twenty a duplicate, one in fifty with made-up personal data; written as JSON lines in 4 files.
Each verb runs once in a process of its own, start-up and imports counted, as a person would run it.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PERSONAL = (
    "\nWrite to jo.keeper{n}@example.org or call +44 20 7946 0{n:03d}; the server is 203.0.113.{m}. "
    "Card 4111 1111 1111 1111, account DE89 3704 0044 0532 0130 00.\n"
)
RECIPE = (
    "from: bench\ninto: bench-clean\nsteps:\n  - drop-duplicates: {columns: [text]}\n  - redact: {columns: [text]}\n"
)
DOCUMENT = 4096


def documents(megabytes: int) -> Iterator[str]:
    left, count, last = megabytes * 1_000_000, 0, ""
    for folder in (sysconfig.get_paths()["stdlib"], sysconfig.get_paths()["purelib"]):
        for path in sorted(Path(folder).rglob("*.py")):
            text = path.read_text(encoding="utf-8", errors="replace")
            for start in range(0, len(text), DOCUMENT):
                count += 1
                piece = last if count % 20 == 0 else text[start : start + DOCUMENT]
                if count % 50 == 0:
                    piece += PERSONAL.format(n=count % 1000, m=count % 250)
                last = piece
                left -= len(piece)
                yield piece
                if left < 0:
                    return


def write(folder: Path, megabytes: int) -> int:
    """Returns the bytes of text."""
    size = 0
    files = [(folder / f"part-{number}.jsonl").open("w", encoding="utf-8") for number in range(4)]
    for number, text in enumerate(documents(megabytes)):
        size += len(text.encode())
        files[number % 4].write(json.dumps({"text": text, "number": number}) + "\n")
    for file in files:
        file.close()
    return size


def timed(*words: str) -> tuple[float, float, dict[str, object]]:
    """(wall seconds, CPU seconds, what it printed) of one archwright call."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "archwright", *words, "--json"], stdout=subprocess.PIPE, text=True, check=True
    )
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - began
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu, json.loads(done.stdout)


def main() -> int:
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 80
    with tempfile.TemporaryDirectory(dir=sys.argv[2] if len(sys.argv) > 2 else None) as scratch:
        source, recipe = Path(scratch) / "source", Path(scratch) / "recipe.yaml"
        source.mkdir()
        size = write(source, megabytes) / 1e6
        recipe.write_text(RECIPE, encoding="utf-8")
        for name, words in (
            ("ingest", ("data", "ingest", str(source), "--name", "bench")),
            ("ingest, nothing changed", ("data", "ingest", str(source), "--name", "bench")),
            ("refine", ("data", "refine", str(recipe))),
        ):
            wall, cpu, made = timed(*words)
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
            print(
                f"{name}: {size:.0f} MB of text, {made['rows']:,} rows, {wall:.1f} s wall ({size / wall:.1f} MB/s), "
                f"{cpu:.1f} s CPU ({size / cpu:.1f} MB/s/core), highest peak so far {peak:.0f} MiB. "
                f"Out {made['drops']}, altered {made['changes']}",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
