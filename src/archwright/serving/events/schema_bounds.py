"""Tool schemas for constrained generation: relocated into one schema and bounded in length.

Design: strings and lists without a length limit get the largest bound for which the schema's longest document fits into
the reply's tokens. A required call is then complete, unless the schema's own bounds, recursion or free-form values
exceed the reply. One character counts as one token, which is the worst case (digits).
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

# Tokens of a separator between values (with the blanks that a grammar allows), of a number and of a literal.
SEPARATOR_TOKENS, NUMBER_TOKENS, LITERAL_TOKENS = 3, 20, 2
UNBOUNDED_TOKENS = 1_000_000
_BOUNDING_KEYWORDS = {"maxLength", "pattern", "format", "enum", "const"}


class SchemaBound(NamedTuple):
    """Maximum characters of an unbounded string and maximum items of an unbounded list."""

    characters: int
    items: int


SCHEMA_BOUNDS = tuple(SchemaBound(2**power, max(1, min(16, 2 ** (power - 3)))) for power in range(10, 2, -1))


def bound_schemas(schemas: Sequence[Mapping[str, Any]], tokens: int) -> tuple[list[Any], dict[str, Any]]:
    """Return the bounded schema of each tool, and the definitions of the schemas that contain references."""
    bounded: list[Any] = []
    defined: dict[str, Any] = {}
    for number, schema in enumerate(schemas):
        fits = (bound for bound in SCHEMA_BOUNDS if _LongestDocument(schema, bound).tokens_of(schema) <= tokens)
        bound = next(fits, SCHEMA_BOUNDS[-1])
        name = f"tool{number}"
        placed = _relocate_schema(schema, f"#/$defs/{name}", bound)
        if _has_reference(schema):
            defined[name], placed = placed, {"$ref": f"#/$defs/{name}"}
        bounded.append(placed)
    return bounded, defined


def _schema_types(node: Mapping[str, Any]) -> tuple[Any, ...]:
    kind = node.get("type")
    return tuple(kind) if type(kind) is list and kind else (kind,)


def _relocate_schema(node: Any, root: str, bound: SchemaBound) -> Any:
    """Return a bounded copy whose references start at `root`."""
    if type(node) is list:
        return [_relocate_schema(inner, root, bound) for inner in node]
    if type(node) is not dict:
        return node
    found = {name: _relocate_schema(inner, root, bound) for name, inner in node.items()}
    target = node.get("$ref")
    if type(target) is str and target.startswith("#"):
        found["$ref"] = root + target[1:]
    types = _schema_types(node)
    if "string" in types and not _BOUNDING_KEYWORDS & node.keys():
        found["maxLength"] = max(bound.characters, _integer_field(node, "minLength", 0))
    if "array" in types and "maxItems" not in node:
        found["maxItems"] = max(bound.items, _integer_field(node, "minItems", 0))
    return found


class _LongestDocument:
    """Upper bound of the tokens of a schema's documents. Recursive schemas count as unbounded."""

    def __init__(self, whole: Mapping[str, Any], bound: SchemaBound) -> None:
        self._whole, self._bound = whole, bound
        self._known: dict[int, int] = {}

    def tokens_of(self, node: Any) -> int:
        if type(node) is not dict:
            return LITERAL_TOKENS
        known = self._known.get(id(node))
        if known is None:
            self._known[id(node)] = UNBOUNDED_TOKENS
            known = self._known[id(node)] = min(UNBOUNDED_TOKENS, self._compute_tokens(node))
        return known

    def _compute_tokens(self, node: Mapping[str, Any]) -> int:
        if "$ref" in node:
            target: Any = self._whole
            for step in str(node["$ref"]).removeprefix("#").split("/")[1:]:
                target = target.get(step) if type(target) is dict else None
            return self.tokens_of(target)
        values = [*_list_field(node, "enum"), *([node["const"]] if "const" in node else [])]
        if values:
            return max(len(str(value)) + LITERAL_TOKENS for value in values)
        forms = [*_list_field(node, "anyOf"), *_list_field(node, "oneOf"), *_list_field(node, "allOf")]
        return max((*map(self.tokens_of, forms), *(self._tokens_of_type(kind, node) for kind in _schema_types(node))))

    def _tokens_of_type(self, kind: Any, node: Mapping[str, Any]) -> int:
        if kind == "string":
            return LITERAL_TOKENS + _integer_field(node, "maxLength", self._bound.characters)
        if kind == "array":
            each = self.tokens_of(node.get("items")) + SEPARATOR_TOKENS
            return 2 * SEPARATOR_TOKENS + each * _integer_field(node, "maxItems", self._bound.items)
        fields = node.get("properties")
        if type(fields) is dict:
            inside = (len(name) + 2 * SEPARATOR_TOKENS + self.tokens_of(inner) for name, inner in fields.items())
            return 2 * SEPARATOR_TOKENS + sum(inside)
        return NUMBER_TOKENS


def _list_field(node: Mapping[str, Any], name: str) -> list[Any]:
    value = node.get(name)
    return value if type(value) is list else []


def _integer_field(node: Mapping[str, Any], name: str, default: int) -> int:
    value = node.get(name)
    return value if type(value) is int else default


def _has_reference(node: object) -> bool:
    if type(node) is dict:
        return "$ref" in node or any(_has_reference(inner) for inner in node.values())
    return type(node) is list and any(_has_reference(inner) for inner in node)
