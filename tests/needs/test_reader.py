"""The way in: files of every kind, encodings, and what a good file yields."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from archwright.catalog.load import load_catalog
from archwright.contract.needs import Needs, NeedsSource
from archwright.errors import NeedsError
from archwright.needs.needs_problem import NeedsTree
from archwright.needs.reader import MAX_BYTES, convert_tree, parse_needs, read_needs
from archwright.needs.template import TEMPLATES, read_template

EXAMPLES = Path(__file__).parents[2] / "examples"
DESK = read_template("desk")
DEADLINE_S = 2.0


def changed(old: str, new: str, file: str = DESK) -> tuple[Needs, NeedsSource]:
    assert old in file
    return parse_needs(file.replace(old, new, 1).encode(), "needs.yaml", load_catalog())


@pytest.mark.parametrize("name", TEMPLATES)
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
    assert source.lines["workloads[1].slo.ttft_p95_s"] == 26
    assert source.lines["workloads[1].traffic.regions.APAC"] == 25
    assert source.lines["workloads[1].traffic"] == 20
    assert source.lines["workloads"] == 7
    assert source.lines["workloads[0].sites[0]"] == 14


def test_texts_that_yaml_1_1_turns_into_something_else() -> None:
    needs, _ = changed("country: DE, sector: software", "country: NO, sector: on")
    assert (needs.organisation.country, needs.organisation.sector) == ("NO", "on")
    needs, _ = changed("name: Desk", "name: 12:30:45")
    assert needs.organisation.name == "12:30:45"
    needs, _ = changed("[DE]", "[NO]")
    assert needs.data[0].residency == ("NO",)
    needs, _ = changed("input_tokens", "regions: {NO: 1}\n      input_tokens")
    traffic = needs.workloads[0].traffic
    assert traffic is not None and traffic.regions == {"NO": 1.0}


def test_numbers_in_every_notation() -> None:
    needs, _ = changed("employees: 1,", "employees: 1.5e+1,")
    assert needs.organisation.employees == 15 and isinstance(needs.organisation.employees, int)
    needs, _ = changed("size_gib: 0.1", "size_gib: 1e3")
    assert needs.data[0].size_gib == 1000
    needs, _ = changed("horizon_months: 36", "horizon_months: 0x24")
    assert needs.budget.horizon_months == 36


def test_an_explicit_null_sets_nothing() -> None:
    needs, _ = changed("data: [notes]", "base: ~\n    data: [notes]")
    assert needs.workloads[0].base is None


def test_a_goal_may_be_a_paragraph_and_a_join_is_no_control() -> None:
    needs, _ = changed('{text: "a private assistant on this machine"}', "text: |\n      one\n      two \u200d three\n")
    assert needs.goals[0].text == "one\ntwo \u200d three\n"


def test_what_stands_already_is_kept() -> None:
    needs, _ = changed(
        "regulations: [gdpr]", "existing: [{kind: gateway, product: own, url: 'https://gw.example:8443/v1'}]"
    )
    assert needs.existing[0].url == "https://gw.example:8443/v1"
    needs, _ = changed("regulations: [gdpr]", "existing: [{kind: lake, product: own}]")
    assert needs.existing[0].url is None


EMBEDDING = "documents: 220000, tokens_per_document: 700, refresh: week"


@pytest.mark.parametrize(
    "traffic",
    [
        "documents: 2, tokens_per_document: 7",
        "requests_per_second: {mean: 1, peak: 1}, input_tokens: {mean: 5, p95: 5}",
        f"{EMBEDDING}, requests_per_second: {{mean: 1, peak: 2}}, input_tokens: {{mean: 5, p95: 9}}",
        "requests_per_second: {mean: 1, peak: 1}, input_tokens: {mean: 5, p95: 5}, output_tokens: {mean: 1, p95: 1}",
    ],
)
def test_embeddings_online_or_of_a_corpus_or_both(traffic: str) -> None:
    needs, _ = changed(EMBEDDING, traffic, read_template("startup"))
    assert needs.workloads[2].traffic is not None


def test_models_by_name() -> None:
    hosted = load_catalog().hosted[0].id
    needs, _ = changed("    kind: rag", f"    kind: rag\n    model: {hosted}", read_template("startup"))
    assert needs.workloads[0].model == hosted
    needs, _ = changed("base: support-chat", "base: HuggingFaceTB/SmolLM2-135M-Instruct", read_template("startup"))
    assert needs.workloads[1].base == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_a_tuned_model_may_be_tuned_again() -> None:
    first = "  - {name: first, kind: finetune, base: support-chat, method: full, tokens: 1}\n"
    file = read_template("startup").replace("base: support-chat", "base: first", 1)
    needs, _ = changed("  - name: index", f"{first}  - name: index", file)
    assert [workload.base for workload in needs.workloads] == [None, "first", "support-chat", None]


def test_pretraining() -> None:
    new = "  - {name: own, kind: pretrain, parameters: 1.0e+9, tokens: 2.0e+10, deadline_h: 500}"
    needs, _ = changed("data:\n  - {", f"{new}\ndata:\n  - {{")
    assert needs.workloads[1].parameters == 1e9


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


def refusal(path: Path) -> NeedsError:
    started = time.thread_time()
    with pytest.raises(NeedsError) as caught:
        read_needs(path, load_catalog())
    assert time.thread_time() - started < DEADLINE_S
    assert caught.value.where.file == str(path)
    return caught.value


def test_no_file(tmp_path: Path) -> None:
    error = refusal(tmp_path / "needs.yaml")
    assert error.code == "AW-NEEDS-01" and "No such file" in error.message and "archwright init" in error.hint


def test_a_directory_and_a_device(tmp_path: Path) -> None:
    assert "a directory" in refusal(tmp_path).message
    assert "device" in refusal(Path(os.devnull)).message


def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "needs.yaml")
    error = refusal(tmp_path / "needs.yaml")
    assert error.code == "AW-NEEDS-01" and "a pipe" in error.message


def test_a_circle_of_links_and_an_impossible_name(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert refusal(tmp_path / "a").code == "AW-NEEDS-01"
    assert refusal(tmp_path / "a\0b").code == "AW-NEEDS-01"


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "needs.yaml"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    error = refusal(path)
    assert error.code == "AW-NEEDS-02" and "1,099,511,627,776" in error.message


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
