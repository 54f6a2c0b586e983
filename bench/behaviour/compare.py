"""Compare two records of record.py: every number, key, status and identifier must be equal; prose may differ.

    python -m bench.behaviour.compare BEFORE AFTER

Plans, predictions, capacities and accuracy must be equal number by number. The JSON of verbs that run something must
have the same keys, types and exit status; its values (times, ids, digests) change from run to run. Exit status 0 if
the records are equal.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

# Values that differ between two runs of the same code.
VOLATILE_KEYS = re.compile(
    r"(^|_)(id|at|key|digest|sha256|pid|path|file|output|home|url|port|created|expires|duration|wall|elapsed)(_|$)"
)
VOLATILE_HEADERS = {"x-request-id", "date", "retry-after", "x-archwright-overhead-us"}
# A text without blanks: a name, unit, verdict, query or place. Prose has blanks; digests of texts and paths vary.
IDENTIFIER = re.compile(r"(?![0-9a-f]{64}$|/)\S+")
# Texts that name a file of the source, which a refactoring moves.
SOURCE_FILE = re.compile(r"[\w/]+\.py\b")
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
# Verbs of the design wing: values are a function of the input, so they are compared too.
EXACT_VERBS = ("plan", "explain", "diff", "predict", "accuracy", "catalog", "settings", "init")


def compare_values(before: Any, after: Any, at: str, *, values: bool) -> Iterator[str]:
    """The differences of two JSON values; `values` False compares keys and types only."""
    if type(before) is not type(after) and not (is_number(before) and is_number(after)):
        yield f"{at}: {type(before).__name__} became {type(after).__name__}"
    elif isinstance(before, dict):
        yield from (f"{at}.{key}: gone" for key in sorted(before.keys() - after.keys()))
        yield from (f"{at}.{key}: new" for key in sorted(after.keys() - before.keys()))
        for key in sorted(before.keys() & after.keys()):
            leaf = not isinstance(before[key], dict | list)
            exact = values and not (leaf and VOLATILE_KEYS.search(key))
            yield from compare_values(before[key], after[key], f"{at}.{key}", values=exact)
    elif isinstance(before, list):
        if values and len(before) != len(after):
            yield f"{at}: {len(before)} items became {len(after)}"
        for number, (one, other) in enumerate(zip(before, after, strict=False)):
            yield from compare_values(one, other, f"{at}[{number}]", values=values)
    elif values and before != after and (is_number(before) or is_identifier(before)):
        yield f"{at}: {before} became {after}"


def is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def is_identifier(value: Any) -> bool:
    return isinstance(value, str) and IDENTIFIER.fullmatch(value) is not None and not SOURCE_FILE.search(value)


def compare_verbs(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    for words in sorted(before.keys() | after.keys()):
        if words not in before or words not in after:
            yield f"{words}: only in one record"
            continue
        old, new = before[words], after[words]
        if old["status"] != new["status"]:
            yield f"{words}: exit status {old['status']} became {new['status']}: {str(new['error'])[:200]}"
        exact = words.split()[0] in EXACT_VERBS
        yield from compare_values(old["out"], new["out"], words, values=exact)
        if error_code(old["error"]) != error_code(new["error"]):
            yield f"{words}: error {error_code(old['error'])} became {error_code(new['error'])}"


def error_code(error: Any) -> str:
    """The code of an error; empty where standard error holds none (a run shows its progress there)."""
    return str(error.get("code", "")) if isinstance(error, dict) else ""


def compare_replies(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    """A case that only the later record has is a new test."""
    for name in sorted(before):
        yield from compare_values(plain_replies(before, name), plain_replies(after, name), name, values=True)


def varies(header: str, status: int) -> bool:
    return header in VOLATILE_HEADERS or (header == "content-length" and status >= HTTPStatus.BAD_REQUEST)


def plain_replies(record: dict[str, Any], name: str) -> list[Any]:
    """Status and headers of a case; the length of an error's body follows its text, which may differ."""
    replies = record.get(name, [])
    return [
        {"status": status, "headers": {k: v for k, v in headers.items() if not varies(k, status)}}
        for status, headers in replies
    ]


def compare_texts(before: str, after: str, at: str) -> Iterator[str]:
    """Numbers of two texts, in order."""
    old, new = NUMBER.findall(before), NUMBER.findall(after)
    if old != new:
        changed = sum(one != other for one, other in zip(old, new, strict=False)) + abs(len(old) - len(new))
        yield f"{at}: {changed} of {len(old)} numbers differ"


def compare_records(before: Path, after: Path) -> Iterator[str]:
    names = {path.name for path in (*before.iterdir(), *after.iterdir())}
    for name in sorted(names):
        if not (before / name).exists() or not (after / name).exists():
            yield f"{name}: only in one record"
            continue
        old, new = (before / name).read_text(encoding="utf-8"), (after / name).read_text(encoding="utf-8")
        if name == "verbs.json":
            found = compare_verbs(json.loads(old), json.loads(new))
        elif name == "http.json":
            found = compare_replies(json.loads(old), json.loads(new))
        elif name.endswith(".json"):
            found = compare_values(json.loads(old), json.loads(new), name, values=True)
        else:
            found = compare_texts(old, new, name)
        differences = list(found)
        yield from differences
        print(f"{name}: {len(differences)} differences", file=sys.stderr)


def main() -> int:
    before, after = map(Path, sys.argv[1:3])
    differences = list(compare_records(before, after))
    print("\n".join(differences[:200]) or "equal")
    return bool(differences)


if __name__ == "__main__":
    sys.exit(main())
