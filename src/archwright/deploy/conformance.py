"""The check-list of the CNCF for AI on Kubernetes, filled in for a bundle: each item with the objects that meet it.

A bundle shows what it asks a cluster for. That the cluster does it, only a test on the cluster can show.
"""

import functools
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import yaml

from archwright.contract.record import Record
from archwright.deploy.templating import RenderedObject

CHECKLIST = "conformance.yaml"


class Evidence(Record):
    """Objects by kinds and names, or a file by its path; * matches any text."""

    kinds: tuple[str, ...] = ()
    names: tuple[str, ...] = ("*",)
    file: str = ""


class ConformanceItem(Record):
    """An item is met if a bundle has all of its `evidence`; `otherwise` says why another bundle does not meet it."""

    id: str
    level: Literal["MUST", "SHOULD"]
    requirement: str
    otherwise: str
    evidence: tuple[Evidence, ...] = ()


class Checklist(Record):
    source: str
    version: str
    items: tuple[ConformanceItem, ...]


class BundleObject(NamedTuple):
    """An object of a bundle, or a file that holds none."""

    file: str
    kind: str
    name: str

    def meets(self, evidence: Evidence) -> bool:
        if evidence.file:
            return fnmatchcase(self.file, evidence.file)
        return self.kind in evidence.kinds and any(fnmatchcase(self.name, name) for name in evidence.names)

    @property
    def reference(self) -> str:
        return f"{self.file} {self.kind}/{self.name}" if self.kind else self.file


@functools.cache
def read_checklist() -> Checklist:
    return msgspec.convert(yaml.load(Path(__file__).with_suffix(".yaml").read_bytes(), yaml.CSafeLoader), Checklist)


def assess_conformance(objects: Iterable[RenderedObject]) -> RenderedObject:
    """Return the file with the check-list for the objects of a folder."""
    checklist = read_checklist()
    found = list(dict.fromkeys(map(_identify, objects)))
    value = {
        "standard": f"Kubernetes AI Conformance {checklist.version}",
        "source": checklist.source,
        "note": "Written from the objects of this bundle. A test on the cluster must show that they work.",
        "items": [_assess_item(item, found) for item in checklist.items],
    }
    reason = "each requirement with the objects that meet it, or why none does"
    return RenderedObject(CHECKLIST, value, "", reason, (), 0o644)


def _identify(one: RenderedObject) -> BundleObject:
    value = one.value if isinstance(one.value, dict) else {}
    metadata = value.get("metadata", {})
    name = metadata.get("name") or metadata.get("generateName", "")
    return BundleObject(one.file, value.get("kind", ""), name)


def _assess_item(item: ConformanceItem, objects: list[BundleObject]) -> dict[str, object]:
    met = list(_find_objects(item, objects))
    result: dict[str, object] = {"id": item.id, "level": item.level, "requirement": item.requirement}
    return result | ({"status": "met", "objects": met} if met else {"status": "not met", "reason": item.otherwise})


def _find_objects(item: ConformanceItem, objects: list[BundleObject]) -> Iterator[str]:
    """Yield the objects that meet an item; none if a part of the evidence is missing."""
    found = [[one.reference for one in objects if one.meets(evidence)] for evidence in item.evidence]
    if all(found):
        yield from (reference for references in found for reference in references)
