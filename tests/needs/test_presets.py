"""Presets of service levels: what the file states stays, and a person who reads along has a stated default."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import yaml

from archwright.catalog.load import load_catalog
from archwright.contract.needs import SLO, SLOPreset
from archwright.needs.reader import parse_needs

CATALOG = load_catalog()
TEXT = {"requests_per_second": {"mean": 1, "peak": 2}, "input_tokens": {"mean": 100, "p95": 200}}


def read(kind: str, slo: dict[str, Any], traffic: dict[str, Any], *allow: str) -> tuple[SLO, str]:
    placement = {"placement": {"allow": list(allow)}} if allow else {}
    workload = {"name": "a", "kind": kind, "traffic": traffic, **({"slo": slo} if slo else {})}
    tree = {
        "version": 1,
        "organisation": {"name": "a", "country": "DE"},
        "workloads": [workload],
        "budget": {"currency": "EUR", "horizon_months": 12},
        **placement,
    }
    needs, source = parse_needs(yaml.safe_dump(tree).encode(), "needs.yaml", CATALOG)
    return needs.workloads[0].slo, " ".join(text for text in source.defaults if "slo." in text)


def chat(slo: dict[str, Any], *allow: str) -> tuple[SLO, str]:
    return read("chat", slo, {**TEXT, "output_tokens": {"mean": 50, "p95": 90}}, *allow)


def test_a_preset_fills_the_limits_that_the_file_does_not_state() -> None:
    slo, said = chat({"preset": "interactive", "tpot_p95_s": 0.09, "availability": 0.99})
    assert (slo.ttft_p95_s, slo.tpot_p95_s, slo.latency_p95_s, slo.availability, said) == (1.0, 0.09, None, 0.99, "")
    assert chat({"preset": "background"})[0] == SLO(preset="background", latency_p95_s=3600.0)


def test_who_reads_along_gets_the_reading_speed_unless_a_latency_is_stated() -> None:
    slo, said = chat({"availability": 0.99})
    assert (slo.ttft_p95_s, slo.tpot_p95_s, slo.preset) == (2.0, 0.12, None)
    assert said == "a: slo.ttft_p95_s 2 and slo.tpot_p95_s 0.12: slo.preset reading, since the file states no latency"
    stated, said = chat({"latency_p95_s": 9.0})
    assert (stated.ttft_p95_s, stated.tpot_p95_s, said) == (None, None, "")
    assert chat({}, "this-machine") == (SLO(), ""), "there is no other machine to choose"
    assert read("rerank", {}, TEXT) == (SLO(), ""), "nobody reads along"


def test_documents_and_agents_that_no_user_asks_get_no_reading_speed() -> None:
    lengths = {"input_tokens": {"mean": 250, "p95": 500}, "output_tokens": {"mean": 350, "p95": 800}}
    papers = {**lengths, "documents": 16000, "refresh": "day", "deadline_h": 8, "image_pixels": 2.2e6}
    assert read("vision-language", {}, papers) == (SLO(), "")
    rate = {"requests_per_second": {"mean": 1, "peak": 2}}
    assert read("chat", {}, {**lengths, **rate, "agent_steps": 5}) == (SLO(), "")
    asked = {**lengths, "users": 30, "agent_steps": 5}
    assert read("chat", {}, asked)[0].ttft_p95_s == 2.0, "a user waits for the answer of this agent"
    assert read("vision-language", {"preset": "reading"}, papers)[0].ttft_p95_s == 2.0, "what the file states stays"


@pytest.mark.parametrize("preset", get_args(SLOPreset))
def test_every_preset_limits_text_and_other_answers(preset: str) -> None:
    rows = [row for row in CATALOG.slo_limits if row.preset == preset]
    assert {row.kind for row in rows} == {"chat", "*"} and all(row.source and row.value > 0 for row in rows)
    assert {row.field for row in rows} <= set(SLO.__struct_fields__)
    assert read("rerank", {"preset": preset}, TEXT)[0].latency_p95_s is not None
