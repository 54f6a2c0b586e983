"""Objects of rendered clusters: what `kustomize build` of an overlay applies, and plans that no example has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import cast

import yaml

from archwright.contract.plan import Option, Parallelism, Plan
from archwright.contract.record import replace
from archwright.deploy.rendering.bundle import FileBundle

from .object_rules import Item, read_objects

CLUSTER_TARGETS = ("kubernetes", "aws", "azure", "gcp", "onprem")
KUSTOMIZATION = "kustomization.yaml"


def list_overlays(bundle: FileBundle) -> list[PurePosixPath]:
    """Return the folders with a Kustomization that no other one includes; examples hold addresses only."""
    paths = [PurePosixPath(path) for path in bundle.files]
    folders = {path.parent for path in paths if path.name == KUSTOMIZATION and "examples" not in path.parts}
    included = {_join(folder, name) for folder in folders for name in _list_resources(bundle, folder)}
    return sorted(folders - included)


def _join(folder: PurePosixPath, name: str) -> PurePosixPath:
    parts = list(folder.parts)
    for part in PurePosixPath(name).parts:
        parts = parts[:-1] if part == ".." else [*parts, part]
    return PurePosixPath(*parts)


def _list_resources(bundle: FileBundle, folder: PurePosixPath) -> list[str]:
    return list(_read_kustomization(bundle, folder).get("resources", []))


def _read_kustomization(bundle: FileBundle, folder: PurePosixPath) -> Item:
    return cast(Item, yaml.load(bundle.files[str(folder / KUSTOMIZATION)].text, yaml.CSafeLoader))


def read_cluster(bundle: FileBundle, folder: PurePosixPath) -> list[Item]:
    """Return the objects of an overlay. Raises KeyError for a resource that no file is."""
    items: list[Item] = []
    for name in _list_resources(bundle, folder):
        path = _join(folder, name)
        if str(path / KUSTOMIZATION) in bundle.files:
            items += read_cluster(bundle, path)
        elif not name.startswith("https://"):
            items += read_objects(bundle.files[str(path)].text)
    return items


def read_clusters(bundle: FileBundle) -> Iterator[tuple[str, list[Item]]]:
    for folder in list_overlays(bundle):
        items = read_cluster(bundle, folder)
        yield str(folder), [*_list_kept(bundle, folder), *items] if is_component(bundle, folder) else items


def is_component(bundle: FileBundle, folder: PurePosixPath) -> bool:
    return bool(_read_kustomization(bundle, folder)["kind"] == "Component")


def find_overlay(folder: PurePosixPath) -> PurePosixPath:
    """Return the overlay that a component of the same site changes."""
    return folder.parent.parent / "overlays" / folder.name


def _list_kept(bundle: FileBundle, folder: PurePosixPath) -> list[Item]:
    """Return the objects of the overlay that a component leaves, with its other patches left out."""
    patches = [yaml.load(one["patch"], yaml.CSafeLoader) for one in _read_kustomization(bundle, folder)["patches"]]
    gone = {(one["kind"], one["metadata"]["name"]) for one in patches if isinstance(one, dict)}
    items = read_cluster(bundle, find_overlay(folder))
    return [one for one in items if (one["kind"], one["metadata"]["name"]) not in gone | _list_proxied(bundle, folder)]


def _list_proxied(bundle: FileBundle, folder: PurePosixPath) -> set[tuple[str, str]]:
    """Return the objects whose patch replaces their selector: no pod of the bundle belongs to them any more."""
    targets = [one.get("target", {}) for one in _read_kustomization(bundle, folder)["patches"]]
    return {("Service", one["name"]) for one in targets if one.get("kind") == "Service"}


def craft_plans(plan: Plan) -> dict[str, Plan]:
    """Return plans with what no example has: several machines for a model, other engines and vendors, draft models."""
    option = next(one for one in plan.options if one.name == plan.chosen)
    pool = option.pools[0]
    launch = replace(pool.launch, metrics={}, arguments=())
    eight = {"machine": "p5.48xlarge", "accelerator": "H100-SXM-80GB", "accelerator_count": 16, "replicas": 2}
    two = Parallelism(tensor=8, pipeline=2)
    draft = replace(pool.options, draft="maker/draft-of-model")
    flag = '--speculative-config={"model": "maker/draft-of-model"} --more'
    changes: dict[str, dict[str, object]] = {
        "several-machines": {**eight, "parallelism": two, "launch": replace(launch, engine="vllm")},
        "several-machines-sglang": {**eight, "parallelism": two, "launch": replace(launch, engine="sglang")},
        "processors": {
            "machine": "m8g.large",
            "accelerator": "",
            "accelerator_count": 0,
            "launch": replace(launch, engine="llama-server"),
        },
        "draft": {"options": draft, "launch": replace(launch, engine="vllm", arguments=(flag,))},
        "amd": {
            "machine": "Standard_ND96is_MI300X_v5",
            "accelerator": "MI300X",
            "provider": "azure",
            "launch": replace(launch, engine="vllm"),
        },
    }
    return {name: _replace_pool(plan, option, **change) for name, change in changes.items()}


def _replace_pool(plan: Plan, option: Option, **changes: object) -> Plan:
    pool = replace(option.pools[0], **changes)
    purchases = tuple(replace(one, machine=pool.machine) for one in option.purchases if one.pool == pool.name)
    made = replace(option, provider=pool.provider, pools=(pool, *option.pools[1:]), purchases=purchases)
    options = tuple(made if one.name == option.name else one for one in plan.options)
    return replace(plan, options=options, pools=made.pools)
