"""The check-list of the CNCF for AI on Kubernetes, filled in for a bundle: each item with the objects that meet it.

conformance.csv holds the items in our words. `evidence` is what a bundle must have: `Kind/name` of an object;
* matches any text, `or` joins alternatives, `and` joins parts. An item without evidence is never met, and a file that
is no object is no evidence. `otherwise` says why a bundle does not meet the item.
"""

import csv
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from archwright.deploy.rendering.templating import RenderedObject

CHECKLIST = "conformance.yaml"
STANDARD = "Kubernetes AI Conformance 1.37"
SOURCE = "https://github.com/cncf/k8s-ai-conformance docs/AIConformance-1.37.yaml"


def read_checklist() -> list[dict[str, str]]:
    with Path(__file__).with_suffix(".csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def assess_conformance(objects: Iterable[RenderedObject]) -> RenderedObject:
    """Return the file with the check-list for the objects of a folder."""
    names = dict[str, str]()
    for one in objects:
        if name := _name_object(one):
            names.setdefault(f"{one.file} {name}", name)
    items = [_assess_item(item, names) for item in read_checklist()]
    value = {"standard": STANDARD, "source": SOURCE, "items": items}
    reason = "the objects that meet each requirement; only a test on the cluster can show that they work"
    return RenderedObject(CHECKLIST, value, "", reason, (), 0o644)


def _name_object(one: RenderedObject) -> str:
    """Return kind and name of an object of Kubernetes, empty for other content."""
    value = one.value if isinstance(one.value, dict) else {}
    metadata = value.get("metadata", {})
    name = metadata.get("name") or metadata.get("generateName")
    return f"{value['kind']}/{name}" if "kind" in value and name else ""


def _assess_item(item: dict[str, str], names: Mapping[str, str]) -> dict[str, object]:
    """Return the item with its status. `names`: kind and name of each object by its place in the bundle."""
    result: dict[str, object] = {key: item[key] for key in ("id", "level", "requirement")}
    parts = item["evidence"].split(" and ") if item["evidence"] else []
    evidence = [_find_evidence(part.split(" or "), names) for part in parts]
    if not evidence or not all(evidence):
        return result | {"status": "not met", "reason": item["otherwise"]}
    return result | {"status": "met", "objects": [place for places in evidence for place in places]}


def _find_evidence(patterns: list[str], names: Mapping[str, str]) -> list[str]:
    return [place for place, name in names.items() if any(fnmatchcase(name, pattern) for pattern in patterns)]
