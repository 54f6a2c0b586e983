"""Size of a retrieval index in each form, and the source of its number of vectors."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sizing.conftest import CATALOG, known, needs_with

from archwright.contract.estimate import exact_estimate
from archwright.contract.needs import DataProfile, Traffic, Workload
from archwright.needs.reader import parse_needs
from archwright.needs.template import read_template
from archwright.sizing.infrastructure.storage import GIB
from archwright.sizing.infrastructure.vector_index import VectorIndex, size_vector_index

RAG = Workload(name="answers", kind="rag", data=("manuals", "tickets"))
DATA = (DataProfile(name="manuals", size_gib=10), DataProfile(name="tickets", size_gib=1))


def sized(*others: Workload, of: Workload = RAG) -> VectorIndex | None:
    return size_vector_index(needs_with(RAG, *others, data=DATA), of, CATALOG)


def index(vectors: float, dimensions: float = 1024) -> VectorIndex:
    return VectorIndex("answers", exact_estimate(vectors, "vectors"), dimensions, stated=True)


def test_a_vector_takes_numbers_and_links_in_memory_or_whole_sectors_and_an_eighth_of_its_numbers() -> None:
    assert index(1).footprint("memory").memory_bytes == pytest.approx(4 * 1024 + 4 * (32 + 16 / 15) + 8)
    laid = index(10).footprint("disk")
    assert (laid.memory_bytes, laid.stored_bytes) == (10 * 128, 10 * 2 * 4096)
    assert index(1, 384).footprint("disk").stored_bytes == 4096


def test_the_fastest_form_that_fits_is_taken() -> None:
    many = index(1e6)
    assert many.fastest_fitting(1e12).form == "memory"
    assert many.fastest_fitting(2e9).form == "compressed"
    assert many.fastest_fitting(1e8).form == "disk"


@given(st.floats(1, 1e9), st.floats(1.0, 4.0), st.floats(1e6, 1e12), st.sampled_from([384.0, 768.0, 1024.0, 3072.0]))
@settings(max_examples=100)
def test_more_vectors_never_take_less_storage(count: float, more: float, memory: float, dimensions: float) -> None:
    few, many = index(count, dimensions), index(count * more, dimensions)
    assert many.fastest_fitting(memory).stored_bytes >= few.fastest_fitting(memory).stored_bytes * (1 - 1e-9)


def test_what_looks_nothing_up_has_no_index() -> None:
    assert sized(of=Workload(name="chat", kind="chat", data=("manuals",))) is None
    assert sized(of=Workload(name="answers", kind="rag")) is None


def test_the_count_is_guessed_from_bytes_with_a_wide_band() -> None:
    found = known(sized())
    assert not found.stated and found.facts == ("text.share",)
    share, width, chunk = (CATALOG.parameter(name).value for name in ("text.share", "text.bytes", "chunk.tokens"))
    assert found.vectors.value == pytest.approx(11 * GIB * share / width / chunk)
    assert found.vectors.factor > 10


def test_documents_that_an_embedding_workload_states_are_counted() -> None:
    traffic = Traffic(documents=1e6, tokens_per_document=700)
    both = Workload(name="index", kind="embedding", data=("manuals", "tickets"), traffic=traffic)
    found = known(sized(both))
    assert found.stated and found.facts == ()
    assert found.vectors.value == pytest.approx(7e8 / CATALOG.parameter("chunk.tokens").value)


def test_an_index_holds_what_is_embedded_and_not_all_data_that_answers_cite() -> None:
    traffic = Traffic(documents=1000, tokens_per_document=700)
    one = Workload(name="index", kind="embedding", data=("tickets",), traffic=traffic)
    found = known(sized(one))
    assert found.stated and found.vectors.value == pytest.approx(7e5 / CATALOG.parameter("chunk.tokens").value)
    assert sized(Workload(name="index", kind="embedding", data=("manuals",))) == sized(), "no documents are stated"


def test_the_index_of_the_insurer_holds_the_pages_of_its_policies() -> None:
    needs, _ = parse_needs(read_template("insurer").encode(), "needs.yaml", CATALOG)
    clerks = next(workload for workload in needs.workloads if workload.name == "clerks")
    found = known(size_vector_index(needs, clerks, CATALOG, needs.budget.horizon_months))
    pages = 900_000 * 3
    assert pages < found.vectors.value < 5 * pages and found.footprint("disk").stored_bytes < 1e11
