"""How well search finds the right passage, how fast, and how exact its vector index is beside brute force by numpy.

    python -m bench.data.retrieval EMBEDDER [--rows 2000] [--questions 300]

EMBEDDER is a folder with an ONNX embedder. The corpus is the documentation of the standard library's functions. A
question names a function ("What does Python's shutil.copytree do?"); the right passage is its documentation, which
rarely repeats the name. Questions about other subjects have no right passage: they show what the gateway's limits pass.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from examples.full.corpus import questions
from usearch.index import Index

from archwright.engines.model_store import add_model
from archwright.home import Home
from archwright.lake.ingestion import IngestRequest, ingest_files
from archwright.lake.retrieval.index_builder import IndexRequest, build_index, remove_records
from archwright.lake.retrieval.index_search import (
    MODES,
    IndexLibrary,
    OpenIndex,
    Passage,
    SearchRequest,
    search_indexes,
)
from archwright.lake.retrieval.segment import GRAPH, SEGMENT_ROWS
from archwright.serving.handlers.passage_search import PASSAGES, may_answer
from archwright.store import Store

FORMS = (
    *("What is the capital of {}?", "How do I cook {}?", "Who won the {} in 1998?", "When was the {} built?"),
    *("What are the symptoms of {}?", "Which vitamins are in {}?", "How much does the {} cost?"),
)
DIMENSIONS = 384
SUBJECTS = ("France", "tomato soup", "football world cup", "influenza", "Eiffel tower", "carrots", "train ticket")


class Bench:
    def __init__(self, root: Path, embedder: Path, rows: int) -> None:
        self.home = Home(root / "home")
        self.store = Store(self.home.store_url)
        random.seed(20)
        self.rows = random.sample([*questions()], rows)
        self.size = sum(len(row["completion"]) for row in self.rows)
        source = root / "qa.jsonl"
        lines = (json.dumps({"text": row["completion"], "prompt": row["prompt"]}) for row in self.rows)
        source.write_text("\n".join(lines), encoding="utf-8")
        self.version = ingest_files(self.home, self.store, IngestRequest(source, "qa", "")).version
        self.embedder = embedder

    def build(self) -> OpenIndex:
        for name in ("keywords", "keywords and vectors", "vectors from the cache"):
            if name == "keywords and vectors":
                add_model(self.embedder, "embedder", "unknown", self.home)
            began, cpu = time.perf_counter(), time.process_time()
            made = build_index(self.home, IndexRequest(self.version, column="text"))
            took, used = time.perf_counter() - began, time.process_time() - cpu
            rate = self.size / 1e6
            print(f"index of {name}: {rate / took:.3f} MB/s, {rate / used:.3f} MB per second of CPU time")
            if name == "keywords and vectors":
                (self.home.lake / "indexes" / self.version.id / "index.json").unlink()
        print(f"{made.record.passages:,} passages, {made.record.size_bytes / self.size:.2f} bytes per byte of text")
        return IndexLibrary(self.home).get(self.version.id)

    def find(self, index: OpenIndex, query: str, mode: str, limit: int = 10) -> tuple[Passage, ...]:
        return search_indexes(self.home, [index], SearchRequest(query, limit, mode))  # type: ignore[arg-type]

    def rate_modes(self, index: OpenIndex, asked: Sequence[dict[str, str]]) -> None:
        for mode in MODES:
            found, ranks, times = 0, 0.0, []
            for row in asked:
                began = time.perf_counter()
                passages = self.find(index, row["prompt"], mode)
                times.append(time.perf_counter() - began)
                rank = next((at for at, one in enumerate(passages, 1) if one.text in row["completion"]), 0)
                found += 0 < rank <= 5
                ranks += 1 / rank if rank else 0.0
            count = len(asked)
            p50 = statistics.median(times) * 1e3
            print(f"{mode:8} recall@5 {found / count:.3f}  MRR@10 {ranks / count:.3f}  p50 {p50:.1f} ms")

    def rate_limits(self, index: OpenIndex, asked: Sequence[dict[str, str]]) -> None:
        """The share of questions for which the gateway asks the model."""
        foreign = [form.format(subject) for form in FORMS for subject in SUBJECTS]
        for name, texts in (("with", [row["prompt"] for row in asked]), ("without", foreign)):
            passed = [any(map(may_answer, self.find(index, text, "hybrid", PASSAGES))) for text in texts]
            print(f"questions {name} an answer in the corpus that reach the model: {sum(passed) / len(texts):.3f}")

    def remove_one(self, index: OpenIndex) -> None:
        began = time.perf_counter()
        passage = self.find(index, self.rows[0]["prompt"], "hybrid", 1)[0]
        removed = remove_records(self.home, self.version.id, [bytes.fromhex(passage.record_id)])
        print(f"removal of {removed} passage from every file: {time.perf_counter() - began:.1f} s")


def rate_graph(queries: int = 200) -> None:
    """Compare the graph of a full segment, of clustered vectors, with brute force by numpy."""
    rng = np.random.default_rng(7)
    centres = rng.normal(size=(400, DIMENSIONS))
    made = centres[rng.integers(0, len(centres), SEGMENT_ROWS + queries)]
    made = (made + rng.normal(size=made.shape)).astype(np.float32)
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    table, asked = made[:SEGMENT_ROWS], made[SEGMENT_ROWS:]
    graph = Index(ndim=DIMENSIONS, metric="cos", dtype="f16", **GRAPH)  # type: ignore[arg-type]
    began, cpu = time.perf_counter(), time.process_time()
    graph.add(np.arange(SEGMENT_ROWS), table)
    took, used = time.perf_counter() - began, time.process_time() - cpu
    print(f"graph of {SEGMENT_ROWS:,} vectors: {took:.1f} s, CPU {used:.1f} s")
    same = 0
    times: tuple[list[float], list[float]] = ([], [])
    for query in asked:
        began = time.perf_counter()
        near = {*graph.search(query, 10).keys.tolist()}
        middle = time.perf_counter()
        brute = {*np.argpartition(-(table @ query), 10)[:10].tolist()}
        times[0].append(middle - began)
        times[1].append(time.perf_counter() - middle)
        same += len(near & brute)
    fast, slow = (statistics.median(found) * 1e3 for found in times)
    print(f"graph: recall@10 {same / 10 / queries:.4f} of brute force, p50 {fast:.2f} ms against {slow:.2f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("embedder", type=Path)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--questions", type=int, default=300)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), given.embedder, given.rows)
        index = bench.build()
        asked = bench.rows[: given.questions]
        bench.rate_modes(index, asked)
        bench.rate_limits(index, asked)
        bench.remove_one(index)
        bench.store.close()
    rate_graph()
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
