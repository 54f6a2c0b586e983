"""Schemas of Terraform providers, read from the bindings of the PyPI packages `cdktn-provider-*` at test time.

A binding is generated from the provider's schema: comments say what is computed, optional or required, and the method
`synthesizeHclAttributes` says the type of each argument. Nothing of a package is copied into the project.
"""

from __future__ import annotations

import functools
import importlib.util
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Provider name in Terraform -> package on PyPI.
PACKAGES = {"aws": "cdktn-provider-aws", "azurerm": "cdktn-provider-azurerm", "google": "cdktn-provider-google"}
SCALARS = {"string": "string", "number": "number", "boolean": "bool", "any": "dynamic"}
# What the getter of a computed attribute calls -> its type.
GETTERS = (
    (r"Fn\.tolist\(this\.getNumberListAttribute", ["set", "number"]),
    (r"Fn\.tolist\(this\.getListAttribute", ["set", "string"]),
    (r"getNumberListAttribute", ["list", "number"]),
    (r"getListAttribute", ["list", "string"]),
    (r"getStringMapAttribute|cdktn\.StringMap\(", ["map", "string"]),
    (r"getNumberMapAttribute|cdktn\.NumberMap\(", ["map", "number"]),
    (r"getBooleanMapAttribute|cdktn\.BooleanMap\(", ["map", "bool"]),
    (r"cdktn\.StringMapList\(this, '\w+', true|cdktn\.StringMapList\(this, \"\w+\", true", ["set", ["map", "string"]]),
    (r"cdktn\.StringMapList\(", ["list", ["map", "string"]]),
    (r"getStringAttribute", "string"),
    (r"getNumberAttribute", "number"),
    (r"getBooleanAttribute", "bool"),
)


@dataclass
class Attribute:
    """`type`: the type in the JSON notation of Terraform: "string", ["list", "number"], ["object", {...}]."""

    type: Any
    required: bool = False
    optional: bool = False
    computed: bool = False


@dataclass
class Block:
    attributes: dict[str, Attribute] = field(default_factory=dict)
    blocks: dict[str, NestedBlock] = field(default_factory=dict)


@dataclass
class NestedBlock:
    """`nesting`: single, list or set. `most` is 0 without a limit."""

    block: Block
    nesting: str
    least: int
    most: int


@dataclass
class ProviderSchema:
    """The schema of a provider for the types that a configuration uses."""

    name: str
    version: str
    configuration: Block
    resources: dict[str, Block]
    data_sources: dict[str, Block]


def read_schema(provider: str, resources: Iterable[str], data_sources: Iterable[str] = ()) -> ProviderSchema:
    """Return the schema of a provider for these types; types that it does not have are left out."""
    wanted = {_folder_of(provider, name): name for name in resources}
    read = {_folder_of(provider, name, data=True): name for name in data_sources}
    sources = _read_bindings(provider, frozenset({*wanted, *read, "provider"}))
    schema = ProviderSchema(provider, "", _read_block(sources["provider"], "provider"), {}, {})
    schema.version = str(_find(r"terraformProviderVersion|providerVersion: '([\d.]+)'", sources))
    for folder, name in wanted.items():
        if folder in sources:
            schema.resources[name] = _make_id_computed(_read_block(sources[folder], name))
    for folder, name in read.items():
        if folder in sources:
            schema.data_sources[name] = _read_block(sources[folder], name)
    return schema


def _find(pattern: str, sources: dict[str, str]) -> str | None:
    found = (re.search(pattern, text) for folder, text in sources.items() if folder != "provider")
    return next((one.group(1) for one in found if one and one.group(1)), "")


def _folder_of(provider: str, name: str, *, data: bool = False) -> str:
    short = name.removeprefix(f"{provider}_").replace("_", "-")
    return f"data-{provider}-{short}" if data else short


@functools.cache
def _read_bindings(provider: str, folders: frozenset[str]) -> dict[str, str]:
    """Return the program text of these folders. Fails with the package's name if it is not installed."""
    package = PACKAGES[provider]
    spec = importlib.util.find_spec(package.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise AssertionError(f"the test needs the PyPI package {package}; `make nightly` installs it")
    archive = next(Path(spec.origin).parent.glob("_jsii/provider-*.tgz"))
    found: dict[str, str] = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            path = Path(member.name)
            if path.suffix == ".js" and path.parts[1] == "lib" and path.parts[2] in folders:
                content = tar.extractfile(member)
                assert content is not None
                text = re.sub(r"^//# sourceMappingURL.*$", "", content.read().decode(), flags=re.M)
                found[path.parts[2]] = found.get(path.parts[2], "") + text
    return found


def _make_id_computed(block: Block) -> Block:
    """The generator marks `id` as optional, but a provider does not let a configuration set it."""
    known = block.attributes.get("id")
    if known is not None and known.optional and known.computed:
        known.optional = False
    return block


def _read_block(text: str, name: str) -> Block:
    """Return the block of a binding: the resource's, data source's or provider's class."""
    binding = _Binding(text)
    main = next((one for one in binding.classes if re.search(r"synthesizeHclAttributes\(\)", binding.classes[one])), "")
    if not main:
        raise AssertionError(f"the binding of {name} has no method synthesizeHclAttributes")
    return binding.read_block(main, binding.classes[main])


class _Binding:
    """Program text of one binding, split into classes and functions."""

    def __init__(self, text: str) -> None:
        # `export` statements end a class or function: both close with a brace in the first column.
        found = re.findall(r"^(class|function) (\w+)[^\n]*\{\n(.*?)^\}", text, re.M | re.S)
        self.classes = {name: body for kind, name, body in found if kind == "class"}
        self.functions = {name: body for kind, name, body in found if kind == "function"}

    def read_block(self, class_name: str, synthesis: str) -> Block:
        block, flags = Block(), dict(self._read_flags(class_name))
        for name, (mapper, kind, storage) in self._read_arguments(synthesis):
            computed, optional, required, _ = flags.get(name, (False, True, False, ""))
            function = re.search(r"(?<!cdktn\.)\b(\w+)ToHclTerraform", mapper)
            if function is None:
                block.attributes[name] = Attribute(_read_type(kind, storage, name), required, optional, computed)
                continue
            nested = self._read_nested(function.group(1))
            many = "listMapperHcl" in mapper
            if (many and re.search(r"ToHclTerraform\)?, false\)", mapper)) or "hashMapperHcl" in mapper:
                holder = kind if kind in ("list", "set", "map") else "list"
                block.attributes[name] = Attribute([holder, _to_object(nested)], required, optional, computed)
            elif kind == "struct" and computed:
                block.attributes[name] = Attribute(_to_object(nested), required, optional, computed)
            else:
                nesting = "single" if kind == "struct" else kind
                most = 0 if many or nesting == "single" else 1
                block.blocks[name] = NestedBlock(nested, nesting, int(required), most)
        for name, (computed, optional, required, getter) in flags.items():
            if name not in block.attributes and name not in block.blocks and computed:
                block.attributes[name] = Attribute(self._read_computed_type(getter, name), required, optional, computed)
        return block

    def _read_flags(self, class_name: str) -> Iterator[tuple[str, tuple[bool, bool, bool, str]]]:
        """Yield for each attribute: computed, optional, required, and the text of its getter."""
        parts = re.split(
            r"// (\w+) - computed: (\w+), optional: (\w+), required: (\w+)", self.classes.get(class_name, "")
        )
        for at in range(1, len(parts), 5):
            computed, optional, required = (word == "true" for word in parts[at + 1 : at + 4])
            yield parts[at], (computed, optional, required, parts[at + 4].split("set ")[0])

    @staticmethod
    def _read_arguments(synthesis: str) -> Iterator[tuple[str, tuple[str, str, str]]]:
        """Yield for each argument: its mapper, its kind and its storage class."""
        body = synthesis[synthesis.find("const attrs = {") :]
        pattern = (
            r"^\s+(\w+): \{\n\s+value: (.*?),\n\s+isBlock: \w+,\n\s+type: \"(\w+)\",\n\s+storageClassType: \"(\w+)\""
        )
        for name, mapper, kind, storage in re.findall(pattern, body, re.M):
            yield name, (mapper, kind, storage)

    def _read_nested(self, function: str) -> Block:
        reference = f"{function[0].upper()}{function[1:]}OutputReference"
        return self.read_block(reference, self.functions[f"{function}ToHclTerraform"])

    def _read_computed_type(self, getter: str, name: str) -> Any:
        for pattern, kind in GETTERS:
            if re.search(pattern, getter):
                return kind
        found = re.search(
            r"new (?:\w+\.)?(\w+?)(List|Map|OutputReference)\(this, [\"']\w+[\"'](?:, (true|false))?", getter
        )
        if found is None:
            if "interpolationForAttribute" in getter:
                return "dynamic"
            raise AssertionError(f"the type of the computed attribute {name} is not known: {getter.strip()[:200]}")
        stem, holder, is_set = found.groups()
        nested = _to_object(self._read_nested(stem[0].lower() + stem[1:]))
        if holder == "OutputReference":
            return nested
        return ["map" if holder == "Map" else "set" if is_set == "true" else "list", nested]


def _read_type(kind: str, storage: str, name: str) -> Any:
    words = re.findall(r"string|number|boolean|any|List|Map", storage)
    if not words or words[0] not in SCALARS or "".join(words) != storage:
        raise AssertionError(f"the storage class {storage} of {name} is not known")
    inner: Any = SCALARS[words[0]]
    for word in words[1:-1]:
        inner = [word.lower(), inner]
    return [kind, inner] if len(words) > 1 else inner


def _to_object(block: Block) -> Any:
    """Return the type of an attribute whose value has the fields of a block."""
    fields = {name: one.type for name, one in block.attributes.items()}
    for name, one in block.blocks.items():
        inner = _to_object(one.block)
        fields[name] = inner if one.nesting == "single" else [one.nesting, inner]
    return ["object", fields]
