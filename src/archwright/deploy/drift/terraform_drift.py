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
ResourceBlock = dict[str, Any]
Resource = dict[str, Any]


def find_terraform_drift(files: Iterable[dict[str, Any]], state: dict[str, Any]) -> Iterator[Drift]:
    """Yield what is missing, changed or extra. `files`: the contents of the *.tf.json of the root module."""
    blocks = _collect_blocks(files)
    instances = _group_instances(state)
    for address, block in blocks.items():
        # The number of these is an expression, which may be zero.
        is_counted = bool(block.keys() & {"count", "for_each"})
        if address not in instances and not is_counted:
            yield Drift(code="drift.missing", subject=address)
        for instance in instances.get(address, []):
            yield from _compare_resource(block, instance)
    for address, group in instances.items():
        if address not in blocks:
            yield from (Drift(code="drift.extra", subject=one["address"]) for one in group)


def _collect_blocks(files: Iterable[dict[str, Any]]) -> dict[str, ResourceBlock]:
    """Return the arguments of each resource by its address, KIND.NAME."""
    collected: dict[str, ResourceBlock] = {}
    for content in files:
        for kind, named in content.get("resource", {}).items():
            for name, block in named.items():
                collected[f"{kind}.{name}"] = block
    return collected


def _group_instances(state: dict[str, Any]) -> dict[str, list[Resource]]:
    """Return the resources of the root module by address; a block with `count` or `for_each` has several."""
    module = state.get("values", {}).get("root_module", {})
    grouped: dict[str, list[Resource]] = {}
    for resource in module.get("resources", []):
        if resource.get("mode") == "managed":
            address = f"{resource['type']}.{resource['name']}"
            grouped.setdefault(address, []).append(resource)
    return grouped


def _compare_resource(block: ResourceBlock, resource: Resource) -> Iterator[Drift]:
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
    if _is_expression(expected):
        return
    if isinstance(expected, dict):
        yield from _compare_block(expected, found, path)
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        yield from _compare_items(expected, found, path)
    else:
        yield from compare_fields(expected, found, path)


def _compare_block(block: ResourceBlock, found: Any, path: str) -> Iterator[FieldDifference]:
    """A block is one mapping in a file, and a list with one item in a state."""
    is_listed = isinstance(found, list) and len(found) == 1
    value = found[0] if is_listed else found
    values = value if isinstance(value, dict) else {}
    for key, argument in block.items():
        if key not in META_ARGUMENTS:
            yield from _compare_argument(argument, values.get(key), f"{path}.{key}")


def _compare_items(expected: list[Any], found: list[Any], path: str) -> Iterator[FieldDifference]:
    if all(isinstance(item, str) for item in (*expected, *found)):
        # They may be a set, which has no order. With an expression among them, nobody knows which is which.
        if any(_is_expression(item) for item in expected):
            return
        expected = sorted(expected)
        found = sorted(found)
    for number, (one, other) in enumerate(zip(expected, found, strict=True)):
        yield from _compare_argument(one, other, f"{path}[{number}]")


def _is_expression(value: Any) -> bool:
    return isinstance(value, str) and "${" in value
