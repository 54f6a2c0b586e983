"""How fast and how exactly near duplicates are found, beside datatrove on the same sample in the same run.

    python -m bench.data.dedup CORPUS [--reference-python PATH] [--scale 30 300 3000] [--sample 32]

CORPUS has docs/*.jsonl ({"id", "text"}) and injected.jsonl ({"id", "orig", "kind"}), pairs of variants and originals.
The sample holds injected pairs and other documents. The truth is the exact Jaccard similarity of all pairs, of their
lower-case word 5-grams, found by prefix filtering, without MinHash. Recall: the share of removals that groups of pairs
with 0.8 or more demand. Precision: the share of removed documents with another one at 0.7 or more. PATH is a Python
with datatrove[processing] and spacy. Each tool runs in one process of its own; CPU time excludes imports, and includes
reading. With --scale, the corpus is repeated with other letters, so that copies are no duplicates.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import resource
import string
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from archwright.lake.steps.near_duplicates import DropNearDuplicates

WORD = re.compile(r"\w+")
REFERENCE = """
import glob, json, resource, sys, tempfile
from datatrove.executor import LocalPipelineExecutor as Executor
from datatrove.pipeline.dedup import minhash
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers.jsonl import JsonlWriter
from datatrove.utils.hashing import HashConfig
config = minhash.MinhashConfig(hash_config=HashConfig(precision=64), num_buckets=14, hashes_per_bucket=8, n_grams=5)
source = sys.argv[1]
tasks = len(glob.glob(source + "/*.jsonl"))
work = tempfile.mkdtemp()
read = lambda: JsonlReader(source, text_key="text", id_key="id", glob_pattern="*.jsonl")
stages = [
    ([read(), minhash.MinhashDedupSignature(work + "/sig", config=config, language="en")], tasks),
    ([minhash.MinhashDedupBuckets(work + "/sig", work + "/buckets", config=config)], 14),
    ([minhash.MinhashDedupCluster(work + "/buckets", work + "/remove", config=config)], 1),
    ([read(), minhash.MinhashDedupFilter(work + "/remove", JsonlWriter(work + "/out", compression=None))], tasks),
]
before = resource.getrusage(resource.RUSAGE_SELF)
for number, (stage, count) in enumerate(stages):
    Executor(stage, tasks=count, workers=1, logging_dir=f"{work}/log{number}").run()
after = resource.getrusage(resource.RUSAGE_SELF)
cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
removed = [json.loads(line)["id"] for path in glob.glob(work + "/out/*") for line in open(path)]
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024
print(json.dumps({"cpu": cpu, "peak": peak, "removed": removed}))
"""


def read_documents(corpus: Path) -> Iterator[dict[str, str]]:
    for path in sorted((corpus / "docs").glob("*.jsonl")):
        with path.open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def take_sample(corpus: Path, megabytes: float) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Returns (documents, injected pairs): one part of the sample is pairs, three parts are other documents."""
    rng = random.Random(3)
    injected = [json.loads(line) for line in (corpus / "injected.jsonl").read_text(encoding="utf-8").splitlines()]
    texts = {one["id"]: one for one in read_documents(corpus)}
    others = [name for name in texts if not name.startswith("dup-")]
    rng.shuffle(injected)
    rng.shuffle(others)
    chosen: dict[str, None] = {}
    pairs: list[dict[str, str]] = []
    size = 0
    while size < megabytes * 1e6 and injected and others:
        pairs.append(injected.pop())
        for name in (pairs[-1]["id"], pairs[-1]["orig"], *(others.pop() for _ in range(min(8, len(others))))):
            if name not in chosen:
                chosen[name] = None
                size += len(texts[name]["text"].encode())
    names = list(chosen)
    rng.shuffle(names)
    return [texts[name] for name in names], pairs


def find_similar_pairs(documents: list[dict[str, str]], least: float) -> dict[tuple[int, int], float]:
    """All pairs with a Jaccard similarity of at least `least`: two such sets share one of their rarest shingles."""
    counts: Counter[int] = Counter()
    sets = []
    for one in documents:
        words = WORD.findall(one["text"].lower())
        sets.append({hash(" ".join(words[at : at + 5])) for at in range(max(1, len(words) - 4))})
        counts.update(sets[-1])
    index: dict[int, list[int]] = defaultdict(list)
    found = {}
    for place in sorted(range(len(sets)), key=lambda at: len(sets[at])):
        mine = sets[place]
        rarest = sorted(mine, key=lambda shingle: (counts[shingle], shingle))
        prefix = rarest[: len(mine) - math.ceil(least * len(mine)) + 1]
        for other in {other for shingle in prefix for other in index[shingle]}:
            if len(sets[other]) >= least * len(mine):
                shared = len(mine & sets[other])
                similarity = shared / (len(mine) + len(sets[other]) - shared)
                if similarity >= least:
                    found[other, place] = similarity
        for shingle in prefix:
            index[shingle].append(place)
    return found


def score_removed(
    documents: list[dict[str, str]], pairs: dict[tuple[int, int], float], removed: set[str]
) -> tuple[float, float]:
    """Returns (recall at 0.8, precision at 0.7)."""
    groups = {place: {place} for place in range(len(documents))}
    for (one, other), similarity in pairs.items():
        if similarity >= 0.8 and groups[one] is not groups[other]:
            groups[one] |= groups[other]
            for member in groups[other]:
                groups[member] = groups[one]
    names = [one["id"] for one in documents]
    wanted = gone = 0
    for group in {id(group): group for group in groups.values()}.values():
        wanted += len(group) - 1
        gone += min(len(group) - 1, sum(names[place] in removed for place in group))
    similar = {names[place] for pair in pairs for place in pair}
    return gone / max(1, wanted), len(removed & similar) / max(1, len(removed))


def shift_letters(text: str, by: int) -> str:
    letters = string.ascii_lowercase
    turned = letters[by % 26 :] + letters[: by % 26]
    return text.translate(str.maketrans(letters + letters.upper(), turned + turned.upper())) if by else text


def write_parts(
    folder: Path, documents: Iterator[tuple[int, dict[str, str]]], megabytes: float
) -> tuple[list[Path], float]:
    """Parquet files of 8,000 rows as the lake has them. Returns (files, megabytes of text)."""
    paths: list[Path] = []
    size = 0
    rows: list[tuple[bytes, str, int, str, str]] = []

    def write_rows() -> None:
        kinds = (pa.binary(16), pa.large_string(), pa.int64(), pa.large_string(), pa.large_string())
        names = ("record_id", "source_file", "source_row", "id", "text")
        arrays = [pa.array(values, kind) for values, kind in zip(zip(*rows, strict=True), kinds, strict=True)]
        paths.append(folder / f"{len(paths):04d}.parquet")
        pq.write_table(
            pa.table(dict(zip(names, arrays, strict=True))), paths[-1], compression="zstd", row_group_size=1000
        )
        rows.clear()

    for number, (copy, one) in enumerate(documents):
        if size >= megabytes * 1e6:
            break
        text = shift_letters(one["text"], copy)
        size += len(text.encode())
        rows.append((number.to_bytes(16, "big"), f"copy-{copy:03d}", number, one["id"], text))
        if len(rows) == 8000:
            write_rows()
    if rows:
        write_rows()
    return paths, size / 1e6


def read_rows(path: Path) -> Iterator[Any]:
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        yield from file.iter_batches(1000)


class Removed:
    """Collects the ids of dropped rows."""

    def __init__(self, decision: Any) -> None:
        self.decision = decision
        self.ids: list[str] = []

    def drop_rows(self, rows: Any, reason: Any, kept: Any = None, similarity: Any = None) -> None:
        self.ids += rows.column("id").to_pylist()

    def count_changes(self, kind: str, number: int) -> None:
        """No kind is counted."""


def remove_duplicates(paths: list[Path]) -> dict[str, Any]:
    """All passes of the step over Parquet files, in this process."""
    step = DropNearDuplicates(columns=("text",))
    before, decision = resource.getrusage(resource.RUSAGE_SELF), None
    seconds = []
    for number in range(step.survey_count):
        surveys = [step.survey_rows(number, read_rows(path), decision) for path in paths]
        began = time.process_time()
        decision = step.decide(number, iter(surveys), decision)
        seconds.append(round(time.process_time() - began, 2))
    notes = Removed(decision)
    for path in paths:
        for _ in step.process_rows(read_rows(path), notes):
            pass
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024  # ru_maxrss includes the parent's before exec
    return {"cpu": cpu, "peak": peak, "removed": notes.ids, "decide": seconds}


def run_child(python: str, *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [python, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, text=True
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def run_own(paths: list[Path]) -> dict[str, Any]:
    return run_child(sys.executable, "-m", "bench.data.dedup", "--parts", *map(str, paths))


def compare(corpus: Path, megabytes: float, reference: str | None) -> None:
    documents, injected = take_sample(corpus, megabytes)
    pairs = find_similar_pairs(documents, 0.7)
    with tempfile.TemporaryDirectory() as scratch:
        paths, size = write_parts(Path(scratch), ((0, one) for one in documents), math.inf)
        source = Path(scratch) / "docs"
        source.mkdir()
        for number in range(4):
            lines = [json.dumps(one, ensure_ascii=False) + "\n" for one in documents[number::4]]
            (source / f"part-{number}.jsonl").write_text("".join(lines), encoding="utf-8")
        results = {"archwright": run_own(paths)}
        if reference:
            results["datatrove"] = run_child(reference, "-c", REFERENCE, str(source))
    about = f"{len(documents):,} documents, {len(injected)} injected pairs, {len(pairs):,} pairs of 0.7 or more"
    print(f"sample: {size:.1f} MB, {about}")
    for name, result in results.items():
        removed = set(result["removed"])
        recall, precision = score_removed(documents, pairs, removed)
        print(
            f"{name}: {size / result['cpu']:.2f} MB/s per core, recall {recall:.4f}, precision {precision:.4f}, "
            f"peak {result['peak']:.0f} MiB, {len(removed)} removed"
        )
        kinds = sorted({pair["kind"] for pair in injected})
        shares = {
            kind: [pair["id"] in removed or pair["orig"] in removed for pair in injected if pair["kind"] == kind]
            for kind in kinds
        }
        print("  found by kind:", ", ".join(f"{kind} {sum(one) / len(one):.3f}" for kind, one in shares.items()))
    if reference:
        print(f"ratio: {results['datatrove']['cpu'] / results['archwright']['cpu']:.1f}")


def measure_scale(corpus: Path, megabytes: float) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        copies = ((copy, one) for copy in range(1000) for one in read_documents(corpus))
        paths, size = write_parts(Path(scratch), copies, megabytes)
        result = run_own(paths)
    print(
        f"{size:,.0f} MB: {result['cpu']:.1f} s CPU, {size / result['cpu']:.2f} MB/s per core, "
        f"peak {result['peak']:.0f} MiB, {len(result['removed']):,} removed, decide {result['decide']} s",
        flush=True,
    )


def main() -> int:
    if sys.argv[1:2] == ["--parts"]:
        print(json.dumps(remove_duplicates([Path(name) for name in sys.argv[2:]])))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--reference-python", help="a Python with datatrove[processing] and spacy")
    parser.add_argument("--sample", type=float, default=32, help="megabytes of the sample, default 32")
    parser.add_argument("--scale", type=float, nargs="*", default=[], help="megabytes of the repeated corpus")
    options = parser.parse_args()
    compare(options.corpus, options.sample, options.reference_python)
    for megabytes in options.scale:
        measure_scale(options.corpus, megabytes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
