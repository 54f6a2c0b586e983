"""The way in: files of every kind, encodings, and what a good file yields."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from tests.examples import read_example
from tests.tools.work import counted_calls

from archwright.catalog.load import load_catalog
from archwright.contract.needs import Needs, NeedsSource
from archwright.errors import NeedsError
from archwright.needs.needs_problem import NeedsTree
from archwright.needs.reader import MAX_BYTES, convert_tree, parse_needs, read_needs

EXAMPLES = Path(__file__).parents[2] / "examples"
DESK = read_example("desk")
CALLS_LIMIT = 10_000_000
HOSTED = load_catalog().hosted[0].id
URL = "https://gw.example:8443/v1"


def changed(old: str, new: str, file: str = DESK) -> tuple[Needs, NeedsSource]:
    assert old in file
    return parse_needs(file.replace(old, new, 1).encode(), "needs.yaml", load_catalog())


@pytest.mark.parametrize("name", ["desk", "startup", "clinic", "manufacturer"])
def test_the_examples_read_unchanged(name: str) -> None:
    path = EXAMPLES / name / "needs.yaml"
    needs, source = read_needs(path, load_catalog())
    assert needs.version == 1
    assert source.file == str(path)
    assert source.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert min(source.lines.values()) == 2 and max(source.lines.values()) <= len(path.read_text().splitlines())


def test_what_a_good_file_says() -> None:
    needs, source = read_needs(EXAMPLES / "manufacturer" / "needs.yaml", load_catalog())
    tuned = needs.workloads[2]
    assert (tuned.kind, tuned.base, tuned.tokens, tuned.every) == ("finetune", "assistant", 2e9, "quarter")
    assert needs.sites["plants"].count == 14
    assert needs.placement.owned[0].machine == "8x H100 SXM"
    assert needs.data[1].residency == ("EEA",)
    due = {"workloads": 7, "workloads[0].sites[0]": 14, "workloads[1].traffic": 20}
    due |= {"workloads[1].traffic.regions.APAC": 25, "workloads[1].slo.ttft_p95_s": 26}
    assert due.items() <= source.lines.items()


EMBEDDING = "documents: 220000, tokens_per_document: 700, refresh: week"


ONLINE = "requests_per_second: {mean: 1, peak: 2}, input_tokens: {mean: 5, p95: 9}"
OUTPUT = "output_tokens: {mean: 1, p95: 1}"
TUNED = "base: HuggingFaceTB/SmolLM2-135M-Instruct"
PRETRAIN = "  - {name: own, kind: pretrain, parameters: 1.0e+9, tokens: 2.0e+10, deadline_h: 500}"
FIRST = "  - {name: first, kind: finetune, base: support-chat, method: full, tokens: 1}\n"


@pytest.mark.parametrize(
    ("template", "old", "new", "path", "value"),
    [
        # Texts that YAML 1.1 turns into something else.
        ("desk", "country: DE, sector: software", "country: NO, sector: on", "organisation.country", "NO"),
        ("desk", "country: DE, sector: software", "country: NO, sector: on", "organisation.sector", "on"),
        ("desk", "name: Desk", "name: 12:30:45", "organisation.name", "12:30:45"),
        ("desk", "[DE]", "[NO]", "data.0.residency.0", "NO"),
        ("desk", "input_tokens", "regions: {NO: 1}\n      input_tokens", "workloads.0.traffic.regions", {"NO": 1.0}),
        # Numbers in every notation.
        ("desk", "employees: 1,", "employees: 1.5e+1,", "organisation.employees", 15),
        ("desk", "size_gib: 0.1", "size_gib: 1e3", "data.0.size_gib", 1000.0),
        ("desk", "horizon_months: 36", "horizon_months: 0x24", "budget.horizon_months", 36),
        ("desk", "data: [notes]", "base: ~\n    data: [notes]", "workloads.0.base", None),
        # A goal may be a paragraph, and a joiner is no control character.
        (
            "desk",
            '{text: "a private assistant on this machine"}',
            "text: |\n      one\n      two \u200d three\n",
            "goals.0.text",
            "one\ntwo \u200d three\n",
        ),
        (
            "desk",
            "regulations: [gdpr]",
            f"existing: [{{kind: gateway, product: own, url: {URL}}}]",
            "existing.0.url",
            URL,
        ),
        ("desk", "regulations: [gdpr]", "existing: [{kind: lake, product: own}]", "existing.0.url", None),
        ("startup", "    kind: rag", f"    kind: rag\n    model: {HOSTED}", "workloads.0.model", HOSTED),
        ("startup", "base: support-chat", TUNED, "workloads.1.base", TUNED.removeprefix("base: ")),
        # Embeddings online, of a corpus, or both.
        ("startup", EMBEDDING, "documents: 2, tokens_per_document: 7", "workloads.2.traffic.documents", 2.0),
        ("startup", EMBEDDING, ONLINE, "workloads.2.traffic.documents", None),
        ("startup", EMBEDDING, f"{EMBEDDING}, {ONLINE}", "workloads.2.traffic.requests_per_second.peak", 2.0),
        ("startup", EMBEDDING, f"{ONLINE}, {OUTPUT}", "workloads.2.traffic.output_tokens.mean", 1.0),
        ("desk", "data:\n  - {", f"{PRETRAIN}\ndata:\n  - {{", "workloads.1.parameters", 1e9),
    ],
)
def test_a_value_is_read_as_written(template: str, old: str, new: str, path: str, value: object) -> None:
    found: Any = changed(old, new, read_example(template))[0]
    for step in path.split("."):
        found = found[int(step)] if step.isdecimal() else getattr(found, step)
    assert (type(found), found) == (type(value), value)


def test_a_tuned_model_may_be_tuned_again() -> None:
    file = read_example("startup").replace("base: support-chat", "base: first", 1)
    needs, _ = changed("  - name: index", f"{FIRST}  - name: index", file)
    assert [workload.base for workload in needs.workloads] == [None, "first", "support-chat", None]


def test_pinned_accelerators() -> None:
    known = next(iter(load_catalog().accelerators))
    needs, _ = changed(
        "allow: [this-machine]", f"allow: [cloud], prefer: cloud, accelerators: [{known}, H100 SXM], regions: [any]"
    )
    assert needs.placement.accelerators == (known, "H100 SXM")


def test_a_byte_order_mark_and_dos_line_ends_are_read() -> None:
    needs, source = parse_needs(b"\xef\xbb\xbf" + DESK.replace("\n", "\r\n").encode(), "needs.yaml", load_catalog())
    assert needs.organisation.name == "Desk"
    assert source.lines["budget.currency"] == 20


def test_the_largest_file_that_is_read() -> None:
    needs, _ = parse_needs(DESK.encode().ljust(MAX_BYTES, b"#"), "needs.yaml", load_catalog())
    assert needs.version == 1


def test_what_is_no_readable_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 40)
    for path, number, says in (
        (tmp_path / "needs.yaml", 1, "No such file"),
        (tmp_path, 1, "a directory"),
        (Path(os.devnull), 1, "device"),
        (tmp_path / "pipe", 1, "a pipe"),
        (tmp_path / "a", 1, ""),
        (tmp_path / "a\0b", 1, ""),
        (tmp_path / "huge", 2, "1,099,511,627,776"),
    ):
        catalog = load_catalog()
        with pytest.raises(NeedsError) as caught, counted_calls() as work:
            read_needs(path, catalog)
        assert work.calls < CALLS_LIMIT
        assert (caught.value.code, caught.value.where.file) == (f"AW-NEEDS-{number:02d}", str(path))
        assert says in caught.value.message
        assert says != "No such file" or "archwright init" in caught.value.hint


def test_msgspec_is_the_second_lock() -> None:
    """A value that msgspec alone refuses still gets an error with its line; `check_types` refuses it before."""
    tree = NeedsTree("needs.yaml", {}, {"": 1, "budget": 7}, {})
    with pytest.raises(NeedsError) as caught:
        convert_tree({"budget": {"currency": 3}}, tree)
    assert caught.value.code == "AW-NEEDS-10"
    with pytest.raises(NeedsError) as caught:
        convert_tree({**good(), "budget": {"currency": 3, "horizon_months": 1}}, tree)
    assert (caught.value.where.line, caught.value.where.field) == (7, "budget.currency")


def good() -> dict[str, object]:
    return {"version": 1, "organisation": {"name": "a", "country": "DE"}, "workloads": []}
