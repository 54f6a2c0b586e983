"""Labels of a deployment, which Kubernetes, Terraform and systemd accept, and texts that no file interprets."""

import hashlib
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import msgspec

from archwright.contract.plan import OWN_PLACEMENTS, Option, Plan
from archwright.errors import ErrorLocation, PlanFileError

LABEL_CHARACTERS = 40
# Expressions of shells, Terraform, Helm, Prometheus and Kubernetes; and what only the fields of PROSE may have.
EXPRESSIONS, NOT_IN_NAMES = re.compile(r"\$[({]|[%{][{]|[{]%"), re.compile(r"[\"`$\\{}<>|;%]")
PROSE = frozenset(
    ("arguments", "basis", "environment", "evidence", "flag", "load", "notes", "reason", "setting", "source")
)


def make_label(text: str) -> str:
    """Return a label of RFC 1123 for a name: lower case, digits and dashes; a long one ends with a part of its hash."""
    label = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if len(label) > LABEL_CHARACTERS:
        label = f"{label[: LABEL_CHARACTERS - 9].strip('-')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return label if label and label[0].isalpha() else f"x-{label}".strip("-")


def check_texts(plan: Plan, option: Option) -> None:
    """Raises PlanFileError AW-FILE-12 for texts that would change the meaning of a file."""
    names = (option, plan.predictions, plan.workloads, plan.loads, plan.pools, plan.upstreams, plan.currency)
    used = {"names": names, "notes": plan.organisation}
    regions = (one.region for one in option.pools if one.placement not in OWN_PLACEMENTS)
    odd = (region for region in regions if not re.fullmatch(r"[\w-]*", region))
    broken = next(chain(_find_broken(msgspec.to_builtins(used), NOT_IN_NAMES), odd), None)
    if broken is not None:
        message = f"the text {broken[:80]!r} has a character or an expression that files would interpret"
        hint = "correct the name in the needs and plan again"
        raise PlanFileError("AW-FILE-12", message, where=ErrorLocation(plan.needs_file), hint=hint)


def _find_broken(value: Any, forbidden: re.Pattern[str]) -> Iterator[str]:
    """Yield texts that shells, units, queries, YAML or Terraform would read as more than text."""
    if isinstance(value, str):
        if not value.isprintable() or forbidden.search(value):
            yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _find_broken(key, forbidden)
            yield from _find_broken(item, EXPRESSIONS if key in PROSE else forbidden)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _find_broken(item, forbidden)


def check_labels(names: Iterable[str], plan: Plan) -> None:
    """Raises PlanFileError AW-FILE-14 if two names have the same label: one file would replace another."""
    known: dict[str, str] = {}
    for name in names:
        label = make_label(name)
        if label in known:
            message = f"the names {known[label]!r} and {name!r} have the same label {label}"
            hint = "rename one of them in the needs and plan again"
            raise PlanFileError("AW-FILE-14", message, where=ErrorLocation(plan.needs_file), hint=hint)
        known[label] = name
