"""Texts of the document that are data (catalog/data/texts/document.yaml), and their selection."""

import functools
import re
from collections.abc import Iterable

from archwright.catalog.tables.csv_table import DATA
from archwright.catalog.tables.yaml_documents import read_document
from archwright.contract.record import Record


class RiskText(Record):
    """Texts of a risk; `match` is a pattern for the whole id of a fact or limit."""

    match: str
    title: str
    cause: str
    mitigation: str
    trigger: str
    owner: str


class OwnerRule(Record):
    """Owner and due phase of the tasks whose words contain the pattern `match`."""

    match: str
    owner: str
    due: str


class TaskText(Record):
    """A task with its owner and due phase. `when`: traits that the plan must have."""

    text: str
    owner: str
    due: str = ""
    when: tuple[str, ...] = ()


class ZoneText(Record):
    title: str
    rule: str


class QuotationTexts(Record):
    terms: tuple[tuple[str, str], ...]


class DocumentTexts(Record):
    quantities: dict[str, str]
    risks: tuple[RiskText, ...]
    owners: tuple[OwnerRule, ...]
    verbs: dict[str, str]
    decisions: tuple[TaskText, ...]
    missing: dict[str, TaskText]
    phases: dict[str, TaskText]
    zones: dict[str, ZoneText]
    quotation: QuotationTexts

    def find_risk(self, name: str) -> RiskText:
        return next(row for row in self.risks if re.fullmatch(row.match, name))

    def find_owner(self, words: str) -> OwnerRule:
        """The first rule whose pattern is in the words of a demand or task."""
        return next(row for row in self.owners if re.search(row.match, words.lower()))

    def select_decisions(self, traits: Iterable[str]) -> Iterable[TaskText]:
        held = frozenset(traits)
        return (row for row in self.decisions if held.issuperset(row.when))


@functools.cache
def read_texts() -> DocumentTexts:
    """Raises CatalogError: AW-CAT-03 without the file, AW-CAT-04 for a wrong row."""
    return read_document(DATA / "texts" / "document.yaml", DocumentTexts)
