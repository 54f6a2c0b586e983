"""The documents that a gateway process can search: indexes of data sets, per tenant.

Design: searches run in threads of their own, so they delay neither the event loop nor the store's threads. Access is
read from the store for each search, so a withdrawn right counts at once.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, TypeVar

from archwright.home import Home
from archwright.journal import Journal
from archwright.lake.governance.policy import ANY_COUNTRY, read_policy
from archwright.lake.retrieval.index_search import IndexLibrary, Passage, SearchRequest, search_indexes
from archwright.lake.retrieval.readable_indexes import list_readable_indexes
from archwright.serving.requests.passage_prompt import RETRIEVAL_MODEL
from archwright.store import Store

T = TypeVar("T")
SEARCH_THREADS = 2
PASSAGES = 6
# A passage may answer if it is near the question, or has most of its rare words. Without vectors, words decide alone.
# On bench/data/retrieval.py, all questions with an answer and 4 % of those without one reach the model.
LEAST_SIMILARITY, LEAST_COVERAGE, LEAST_COVERAGE_ALONE = 0.25, 0.6, 0.2
BOUND_CLASSIFICATIONS = ("confidential", "restricted")


class FoundPassages(NamedTuple):
    """`bound`: a searched data set is confidential or has a residency; its passages go where personal data may go."""

    passages: tuple[Passage, ...]
    bound: bool


class PassageSearch:
    """One per process; no index is opened before the first search."""

    def __init__(self, home: Home, store: Store, journal: Journal) -> None:
        self._home, self._store, self._journal = home, store, journal
        self._library = IndexLibrary(home)
        self._threads = ThreadPoolExecutor(SEARCH_THREADS, "passages")

    async def list_models(self, tenant: str) -> list[str]:
        """`rag`, and `rag:DATASET` for every indexed data set that the tenant may read."""
        if not (self._home.lake / "indexes").is_dir():
            return []
        found = await self._run(list_readable_indexes, self._home, self._store, tenant)
        return [RETRIEVAL_MODEL, *(f"{RETRIEVAL_MODEL}:{dataset}" for dataset in found)] if found else []

    async def _run(self, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(function, *arguments))

    async def search(self, tenant: str, dataset: str, question: str) -> FoundPassages | None:
        """The passages that may answer, best first; None if the tenant may read no such index."""
        return await self._run(self._search, tenant, dataset, question)

    def drop_changed(self) -> None:
        self._library.drop_changed()

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _search(self, tenant: str, dataset: str, question: str) -> FoundPassages | None:
        readable = list_readable_indexes(self._home, self._store, tenant)
        chosen = {name: version for name, version in readable.items() if dataset in ("", name)}
        if not chosen:
            return None
        indexes = [self._library.get(version) for version in chosen.values()]
        passages = search_indexes(self._home, indexes, SearchRequest(question, PASSAGES))
        if any(index.record.dimensions for index in indexes) and all(one.similarity is None for one in passages):
            hint = "fetch or add the embedding model of the index: archwright models list"
            self._journal.warning("documents are searched by keywords only", hint=hint)
        policies = [read_policy(self._store, name) for name in chosen]
        bound = any(
            policy.classification in BOUND_CLASSIFICATIONS or (policy.residency and ANY_COUNTRY not in policy.residency)
            for policy in policies
        )
        return FoundPassages(tuple(one for one in passages if may_answer(one)), bool(bound))


def may_answer(passage: Passage) -> bool:
    """True if a passage is worth asking the model about it."""
    if passage.similarity is None:
        return passage.coverage >= LEAST_COVERAGE_ALONE
    return passage.similarity >= LEAST_SIMILARITY or passage.coverage >= LEAST_COVERAGE
