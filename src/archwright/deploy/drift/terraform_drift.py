"""Resources of a Terraform state, as `terraform show -json` prints it, against the files of a root module.

An expression has a value only in Terraform, so literals are compared. `terraform plan` compares the rest.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from archwright.deploy.drift.field_comparison import FieldDifference, compare_fields
from archwright.deploy.drift.findings import Drift, describe_value

# Arguments for Terraform itself, which no state holds.
META_ARGUMENTS = frozenset(("//", "count", "depends_on", "dynamic", "for_each", "lifecycle", "provider", "provisioner"))
WRITE_ONLY = ("_wo", "_wo_version")
Resource = dict[str, Any]


def find_terraform_drift(files: Iterable[dict[str, Any]], state: dict[str, Any]) -> Iterator[Drift]:
    """Yield what is missing, changed or extra. `files`: the contents of the *.tf.json of the root module."""
    wanted = {
        f"{kind}.{name}": block
        for content in files
        for kind, blocks in content.get("resource", {}).items()
        for name, block in blocks.items()
    }
    module = state.get("values", {}).get("root_module", {})
    resources: list[Resource] = [one for one in module.get("resources", []) if one.get("mode") == "managed"]
    there: dict[str, list[Resource]] = {}
    for resource in resources:
        there.setdefault(f"{resource['type']}.{resource['name']}", []).append(resource)
    for address, block in wanted.items():
        if address not in there and not block.keys() & {"count", "for_each"}:
            yield Drift(code="drift.missing", subject=address)
        for resource in there.get(address, []):
            yield from _compare_resource(block, resource)
    for address, instances in there.items():
        if address not in wanted:
            yield from (Drift(code="drift.extra", subject=one["address"]) for one in instances)


def _compare_resource(block: dict[str, Any], resource: Resource) -> Iterator[Drift]:
    values = resource.get("values", {})
    for key, argument in block.items():
        if key in META_ARGUMENTS or key.endswith(WRITE_ONLY):
            continue
        for difference in _compare_argument(argument, values.get(key), key):
            yield Drift(
                code="drift.changed",
                subject=resource["address"],
                field=difference.field,
                expected=describe_value(difference.expected),
                found=describe_value(difference.found),
            )


def _compare_argument(expected: Any, found: Any, path: str) -> Iterator[FieldDifference]:
    """A block is one mapping in a file, and a list with one item in a state."""
    if isinstance(expected, str) and "${" in expected:
        return
    if isinstance(expected, dict):
        value = found[0] if isinstance(found, list) and len(found) == 1 else found
        for key, argument in expected.items():
            if key not in META_ARGUMENTS:
                inner = value.get(key) if isinstance(value, dict) else None
                yield from _compare_argument(argument, inner, f"{path}.{key}")
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        if all(isinstance(item, str) for item in (*expected, *found)):
            expected, found = _drop_expressions(sorted(expected), sorted(found))
        for number, (one, other) in enumerate(zip(expected, found, strict=True)):
            yield from _compare_argument(one, other, f"{path}[{number}]")
    else:
        yield from compare_fields(expected, found, path)


def _drop_expressions(expected: list[str], found: list[str]) -> tuple[list[str], list[str]]:
    """Sets have no order: compare them only if no item is an expression."""
    has_expression = any("${" in item for item in expected)
    return ([], []) if has_expression else (expected, found)
