"""`drift`: state that was read from a cluster or from Terraform, against the files of a bundle. Read-only."""

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from archwright.api.rendering import read_bundle
from archwright.contract.record import Record
from archwright.deploy.drift.cluster_drift import ClusterObject, find_cluster_drift
from archwright.deploy.drift.findings import Drift
from archwright.deploy.drift.terraform_drift import find_terraform_drift
from archwright.deploy.rendering.bundle import BundleManifest
from archwright.errors import ErrorLocation, PlanFileError, UsageError

OVERLAYS, BASE, ROOT_SUFFIX = "overlays", "base", ".tf.json"


class DriftReport(Record):
    """`of`: cluster or terraform; `compared` counts the objects or resources that the bundle wants."""

    folder: str
    of: str
    site: str
    compared: int
    findings: tuple[Drift, ...]


def drift(folder: str, *, state: str, site: str | None = None, built: str | None = None) -> DriftReport:
    """Compare a state with a bundle: what is missing, extra or changed. Nothing is written or asked.

    `state`: the output of `kubectl get -o json` or of `terraform show -json`. `site`: needed if the bundle has several.
    `built`: the output of `kustomize build` of an overlay of your own, in place of the overlay of the site.

    Raises PlanFileError AW-FILE-13 (no bundle), -15 (a file of another form), UsageError AW-USE-99 (no such site).
    """
    path = Path(folder)
    manifest = read_bundle(path)
    documents = list(_read_json(Path(state)))
    if any("terraform_version" in document for document in documents):
        return _compare_terraform(path, manifest, documents[0], site)
    return _compare_cluster(path, manifest, documents, site, built)


def _compare_terraform(path: Path, manifest: BundleManifest, state: dict[str, Any], site: str | None) -> DriftReport:
    modules: dict[str, list[str]] = {}
    for name in manifest.files:
        if name.endswith(ROOT_SUFFIX):
            modules.setdefault(str(PurePosixPath(name).parent), []).append(name)
    chosen = _choose_site(modules, site, path)
    files = [json.loads((path / name).read_bytes()) for name in modules[chosen]]
    findings = tuple(find_terraform_drift(files, state))
    count = sum(len(blocks) for content in files for blocks in content.get("resource", {}).values())
    return DriftReport(folder=str(path), of="terraform", site=chosen, compared=count, findings=findings)


def _compare_cluster(
    path: Path, manifest: BundleManifest, documents: list[dict[str, Any]], site: str | None, built: str | None
) -> DriftReport:
    by_folder: dict[str, list[ClusterObject]] = {}
    for name in sorted(manifest.files):
        if name.endswith(".yaml"):
            by_folder.setdefault(str(PurePosixPath(name).parent), []).extend(_read_objects(path / name))
    overlays = {name: items for name, items in by_folder.items() if PurePosixPath(name).parent.name == OVERLAYS}
    if built is not None:
        chosen, expected = built, list(_read_objects(Path(built)))
    else:
        chosen = _choose_site(overlays, site, path)
        base = str(PurePosixPath(chosen).parent.parent / BASE)
        expected = [*by_folder.get(base, []), *overlays[chosen]]
    known = [item for items in by_folder.values() for item in items]
    items = list(_list_items(documents, path))
    findings = tuple(find_cluster_drift(expected, known, items, environment=manifest.environment))
    return DriftReport(folder=str(path), of="cluster", site=chosen, compared=len(expected), findings=findings)


def _choose_site(folders: dict[str, Any], site: str | None, path: Path) -> str:
    """Return the folder of a site; without a name, the only one."""
    found = [name for name in folders if site in (None, PurePosixPath(name).name)]
    if len(found) == 1:
        return found[0]
    names = tuple(sorted(PurePosixPath(name).name for name in folders))
    message = f"the bundle has no site {site}" if site else f"the bundle has {len(names)} sites for this state"
    hint = f"choose with --site one of {', '.join(names)}" if names else "give the state of what this bundle renders"
    raise UsageError("AW-USE-99", message, where=ErrorLocation(str(path)), hint=hint, nearest=names)


def _read_objects(path: Path) -> Iterator[ClusterObject]:
    """Yield the objects of Kubernetes of a file. A Kustomization is applied by nobody."""
    try:
        documents = list(yaml.load_all(path.read_bytes(), yaml.CSafeLoader))
    except (OSError, yaml.YAMLError, RecursionError) as error:
        raise _refuse(path, f"the file is not readable: {error}") from error
    for document in documents:
        is_object = isinstance(document, dict) and {"apiVersion", "kind", "metadata"} <= document.keys()
        if is_object and not document["apiVersion"].startswith("kustomize."):
            yield document


def _read_json(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the documents of a file; the outputs of several commands may follow each other."""
    try:
        text = path.read_text(encoding="utf-8")
        decoder, place = json.JSONDecoder(), 0
        while rest := text[place:].lstrip():
            document, length = decoder.raw_decode(rest)
            place = len(text) - len(rest) + length
            if not isinstance(document, dict):
                raise _refuse(path, "the file holds no JSON object")
            yield document
    except (OSError, ValueError, RecursionError) as error:
        raise _refuse(path, f"the file is not readable: {error}") from error


def _list_items(documents: list[dict[str, Any]], path: Path) -> Iterator[ClusterObject]:
    for document in documents:
        items = document.get("items", []) if document.get("kind", "").endswith("List") else [document]
        for item in items:
            if not isinstance(item, dict) or not {"kind", "metadata"} <= item.keys():
                raise _refuse(path, "the state has an item that is no object of Kubernetes")
            yield item


def _refuse(path: Path, message: str) -> PlanFileError:
    hint = "write the file with kubectl get -o json, or with terraform show -json"
    return PlanFileError("AW-FILE-15", message, where=ErrorLocation(str(path)), hint=hint)
