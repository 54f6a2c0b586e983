"""The check-list of the CNCF for AI on Kubernetes, filled in for a bundle: each item with the objects that meet it.

conformance.csv holds the items in our words. `evidence` is what a bundle must have: `Kind/name` of an object or a file;
* matches any text, `or` joins alternatives, `and` joins parts. `otherwise` says why a bundle does not meet the item.
"""

import csv
from collections.abc import Iterable
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
    found = list(dict.fromkeys(map(_describe_object, objects)))
    items = [_assess_item(item, found) for item in read_checklist()]
    value = {"standard": STANDARD, "source": SOURCE, "items": items}
    reason = "the objects that meet each requirement; only a test on the cluster can show that they work"
    return RenderedObject(CHECKLIST, value, "", reason, (), 0o644)


def _describe_object(one: RenderedObject) -> tuple[str, str]:
    """Return the file of an object, and its kind with its name, empty for other content."""
    value = one.value if isinstance(one.value, dict) else {}
    metadata = value.get("metadata", {})
    name = metadata.get("name") or metadata.get("generateName", "")
    return one.file, f"{value['kind']}/{name}" if "kind" in value else ""


def _assess_item(item: dict[str, str], objects: list[tuple[str, str]]) -> dict[str, object]:
    parts = [part.split(" or ") for part in item["evidence"].split(" and ")]
    met = [[f"{file} {name}".strip() for file, name in objects if _matches(file, name, part)] for part in parts]
    result: dict[str, object] = {name: item[name] for name in ("id", "level", "requirement")}
    if not all(met):
        return result | {"status": "not met", "reason": item["otherwise"]}
    return result | {"status": "met", "objects": [one for part in met for one in part]}


def _matches(file: str, name: str, patterns: list[str]) -> bool:
    return any(fnmatchcase(name, one) or fnmatchcase(file, one) for one in patterns)
