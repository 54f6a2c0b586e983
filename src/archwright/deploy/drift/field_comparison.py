"""Compare the fields of one object: what a bundle states, and what a server answers.

A server adds defaults and facts of its own, so fields that the bundle does not state are no difference. The exception
are fields that change what an object may do and that no server adds by itself: somebody wrote them.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

# Fields of pods, policies and data that no server adds by itself.
NEVER_ADDED_BY_A_SERVER = frozenset(
    (
        *("args", "binaryData", "command", "data", "egress", "env", "envFrom", "externalIPs", "ephemeralContainers"),
        *("hostAliases", "hostIPC", "hostNetwork", "hostPID", "hostPath", "ingress", "initContainers", "lifecycle"),
        *("loadBalancerSourceRanges", "namespaceSelector", "nodeName", "nodeSelector", "paused", "podSelector"),
        *("privileged", "suspend", "tolerations", "volumeMounts", "volumes"),
    )
)
# Mappings whose every key somebody wrote.
WRITTEN_MAPPINGS = frozenset(("data", "binaryData", "matchLabels", "nodeSelector", "selector"))
# Fields whose text is a number with a unit; elsewhere 1.10 and 1.1 are different texts.
QUANTITIES = frozenset(
    (
        *("cpu", "memory", "storage", "size", "sizeLimit", "nominalQuota", "ephemeral-storage", "pods"),
        *("limits.cpu", "limits.memory", "requests.cpu", "requests.memory", "requests.storage"),
    )
)
QUANTITY = re.compile(r"(\d+(?:\.\d+)?)(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?")
FACTORS = {"": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
FACTORS |= {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50}
DURATION = re.compile(r"(?=\d)(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
# Items of a list with one of these keys have no order that counts.
IDENTIFYING_KEYS = ("name", "mountPath", "containerPort", "topologyKey")


class FieldDifference(NamedTuple):
    """`field`: its path. `expected` and `found` are None if one side has no such field."""

    field: str
    expected: Any
    found: Any


def compare_fields(expected: Any, found: Any, path: str = "") -> Iterator[FieldDifference]:
    """Yield where `found` differs from what the bundle states."""
    if isinstance(expected, dict) and isinstance(found, dict):
        yield from _compare_mappings(expected, found, path)
    elif isinstance(expected, list) and isinstance(found, list):
        yield from _compare_lists(expected, found, path)
    elif not _is_same(expected, found, path.rpartition(".")[2]):
        yield FieldDifference(path, expected, found)


def _compare_mappings(expected: dict[str, Any], found: dict[str, Any], path: str) -> Iterator[FieldDifference]:
    for key, value in expected.items():
        place = f"{path}.{key}" if path else key
        if key in found:
            yield from compare_fields(value, found[key], place)
        elif value not in (None, "", [], {}):  # a server leaves out what is empty
            yield FieldDifference(place, value, None)
    is_written = path.rpartition(".")[2] in WRITTEN_MAPPINGS or not expected
    for key in found.keys() - expected.keys():
        if (is_written or key in NEVER_ADDED_BY_A_SERVER) and found[key] not in (None, False, "", [], {}):
            yield FieldDifference(f"{path}.{key}" if path else key, None, found[key])


def _compare_lists(expected: list[Any], found: list[Any], path: str) -> Iterator[FieldDifference]:
    key = next((key for key in IDENTIFYING_KEYS if _is_identified_by(key, expected, found)), None)
    if key is None:
        yield from _compare_in_order(expected, found, path)
        return
    wanted, there = ({str(item[key]): item for item in items} for items in (expected, found))
    for name in sorted({*wanted, *there}):
        place = f"{path}[{name}]"
        if name in wanted and name in there:
            yield from compare_fields(wanted[name], there[name], place)
        else:
            yield FieldDifference(place, wanted.get(name), there.get(name))


def _is_identified_by(key: str, *lists: list[Any]) -> bool:
    return all(
        all(isinstance(item, dict) and key in item for item in items)
        and len({str(item[key]) for item in items}) == len(items) > 0
        for items in lists
    )


def _compare_in_order(expected: list[Any], found: list[Any], path: str) -> Iterator[FieldDifference]:
    if len(expected) != len(found):
        yield FieldDifference(path, expected, found)
        return
    for number, (one, other) in enumerate(zip(expected, found, strict=True)):
        yield from compare_fields(one, other, f"{path}[{number}]")


def _is_same(expected: Any, found: Any, key: str) -> bool:
    if expected == found or (expected in (None, "", [], {}) and found in (None, "", [], {})):
        return True
    if isinstance(expected, dict | list) or isinstance(found, dict | list):
        return False
    one, other = _write_scalar(expected), _write_scalar(found)
    if one == other:
        return True
    if key in QUANTITIES or "/" in key:  # resources of a device have a domain
        return _read_quantity(one) == _read_quantity(other) is not None
    return _read_duration(one) == _read_duration(other) is not None or _is_same_json(one, other)


def _write_scalar(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _read_quantity(text: str) -> float | None:
    """Return the number of a quantity of Kubernetes, None for another text."""
    found = QUANTITY.fullmatch(text)
    return round(float(found[1]) * FACTORS[found[2] or ""], 6) if found else None


def _read_duration(text: str) -> int | None:
    """Return the seconds of a duration such as 2160h or 2160h0m0s, None for another text."""
    found = DURATION.fullmatch(text)
    if not found:
        return None
    hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return hours * 3600 + minutes * 60 + seconds


def _is_same_json(one: str, other: str) -> bool:
    """A provider writes a policy in its own order and spacing."""
    if not one.startswith(("{", "[")):
        return False
    try:
        return bool(json.loads(one) == json.loads(other))
    except ValueError:
        return False
