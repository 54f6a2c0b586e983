"""Reported scores of one model in JSON: a list of benchmark, score and who says so."""

from __future__ import annotations

import msgspec

from archwright.catalog.sources.source_records import BenchmarkScore, FileContext, SourceFacts


class _Result(msgspec.Struct):
    model_id: str
    benchmark_id: str
    score: float
    analysis_method: str | None = None
    is_self_reported: bool = False
    self_reported_source_link: str | None = None
    updated_at: str = ""


def read(data: bytes, _file: FileContext) -> SourceFacts:
    results = msgspec.json.decode(data, type=list[_Result])
    return SourceFacts(
        as_of=max((row.updated_at[:10] for row in results), default=""),
        scores=tuple(
            BenchmarkScore(
                model=row.model_id,
                benchmark=row.benchmark_id,
                score=row.score,
                method=row.analysis_method or "",
                reported_by="the model's maker" if row.is_self_reported else "",
                link=row.self_reported_source_link or "",
            )
            for row in results
        ),
    )
