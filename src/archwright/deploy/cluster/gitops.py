"""Examples for Argo CD and Flux: operators and overlay of a site as `install.sh` brings them, reconciled from Git.

Design: the releases are read from the rendered script of a site, which stays the one place that says what a cluster
needs. Variables that a person sets for the script have their defaults here.
"""

import re
import shlex
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any

import yaml

from archwright.contract.record import Record
from archwright.deploy.rendering.templating import RenderedObject

SCRIPT, EXAMPLES = "install.sh", "examples"
# Values of the organisation: where the bundle lies in Git.
REPOSITORY, BRANCH = "https://git.example.com/your-organisation/platform.git", "main"
OPTIONAL_BLOCK = re.compile(r'^if \[ "\$\{RAY.*?^fi$', re.MULTILINE | re.DOTALL)
DEFAULT_OF_VARIABLE = re.compile(r"\$\{\w+:-(\w*)\}")
VALUE_OF_VARIABLE = re.compile(r"\s*\$\{\w+:\+.*\}$", re.MULTILINE)
INSTALLATION = re.compile(r"helm (?:upgrade --install|template) ([^|]+)")
KEY_PART = re.compile(r"((?:[^.\[\\]|\\.)+)|\[(\d+)\]")
Values = dict[str, Any]


class ChartRelease(Record):
    """A chart that a site installs: `repository` is its URL, with oci:// for a registry.

    `skips_definitions`: the chart holds definitions that another one brings in another version.
    """

    name: str
    namespace: str
    repository: str
    chart: str
    version: str
    values: Values
    skips_definitions: bool


class _Site(Record):
    """`folder` of the bundle in which `platform` and `overlays` lie, empty or with a slash at the end."""

    name: str
    folder: str
    definitions: tuple[str, ...]
    releases: tuple[ChartRelease, ...]


def build_gitops_examples(objects: Iterable[RenderedObject], folder: str) -> Iterator[RenderedObject]:
    """Yield the example files of each site. `objects`: those of the Kubernetes folder, which lies at `folder`."""
    found = list(objects)
    values = {one.file: one.value for one in found}
    for one in found:
        path = PurePosixPath(one.file)
        if path.name == SCRIPT and path.parent.parent.name == "platform":
            site = _Site(
                name=path.parent.name,
                folder="" if folder == "." else f"{folder}/",
                definitions=tuple(re.findall(r"^ *fetch \S+ \S+ (\S+)$", one.text, re.MULTILINE)),
                releases=tuple(read_releases(one.text, path.parent, values)),
            )
            yield from _build_site(site)


def read_releases(script: str, folder: PurePosixPath, files: dict[str, Any]) -> Iterator[ChartRelease]:
    """Yield the charts that a script installs, in its order. `files`: values by path, which the script names."""
    script = VALUE_OF_VARIABLE.sub("", DEFAULT_OF_VARIABLE.sub(r"\1", OPTIONAL_BLOCK.sub("", script)))
    sources: dict[str, list[str]] = {}
    for line in script.splitlines():
        if line.startswith("pull "):
            _pull, name, _digest, *source = shlex.split(line)
            sources[name] = source
        elif installs := INSTALLATION.match(line):
            words = shlex.split(installs[1])
            yield _build_release(words, sources[words[0]], folder, files)


def _build_release(words: list[str], source: list[str], folder: PurePosixPath, files: dict[str, Any]) -> ChartRelease:
    name, _archive, *options = words
    namespace, values = name, Values()
    for option, text in pairwise(options):
        if option == "--namespace":
            namespace = text
        elif option == "-f":
            _merge(values, files[str(folder / text)])
        elif option in ("--set", "--set-string"):
            key, _, word = text.partition("=")
            set_value(values, key, word if option == "--set-string" else yaml.load(word, yaml.CSafeLoader))
    repository, _, chart = source[0].rpartition("/")
    if "--repo" in source:
        repository, chart = source[source.index("--repo") + 1], source[0]
    return ChartRelease(
        name=name,
        namespace=namespace,
        repository=repository,
        chart=chart,
        version=source[source.index("--version") + 1],
        values=values,
        skips_definitions="--skip-crds" in options,
    )


def set_value(values: Values, key: str, value: object) -> None:
    """Set a value under a key of `helm --set`: dots nest, [0] is an item, and a backslash keeps the next dot."""
    parts: list[str | int] = [
        int(number) if number else re.sub(r"\\(.)", r"\1", name) for name, number in KEY_PART.findall(key)
    ]
    place: Any = values
    for part, following in zip(parts, [*parts[1:], None], strict=True):
        inner: Any = value if following is None else [] if isinstance(following, int) else {}
        place = _enter(place, part, inner)


def _enter(place: Any, part: str | int, inner: Any) -> Any:
    """Return what stands under a part of a key, made if it is not there."""
    if isinstance(part, str):
        if isinstance(inner, dict | list) and part in place:
            return place[part]
        place[part] = inner
        return inner
    if part == len(place):
        place.append(inner)
    return place[part]


def _merge(into: Values, more: Values) -> None:
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _build_site(site: _Site) -> Iterator[RenderedObject]:
    reason = f"{len(site.releases)} charts of {site.name} at the versions of its install.sh"
    definitions = f"{EXAMPLES}/definitions/{site.name}"
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": list(site.definitions),
    }
    yield _render(f"{definitions}/kustomization.yaml", kustomization, "definitions that the charts do not bring")
    for number, item in enumerate(_list_applications(site, definitions)):
        item["metadata"]["annotations"] = {"argocd.argoproj.io/sync-wave": str(number)}
        yield _render(f"{EXAMPLES}/argo-cd/{site.name}/applications.yaml", item, reason)
    root = _build_application(site, "root", "argocd", f"{EXAMPLES}/argo-cd/{site.name}")
    yield _render(f"{EXAMPLES}/argo-cd/{site.name}.yaml", root, "the one object that you apply: it holds the others")
    for item in _list_flux_releases(site):
        yield _render(f"{EXAMPLES}/flux/{site.name}/releases.yaml", item, reason)
    for item in _list_flux_folders(site, definitions):
        yield _render(f"{EXAMPLES}/flux/{site.name}.yaml", item, "the objects that you apply: Flux reads the others")


def _render(file: str, value: Values, reason: str) -> RenderedObject:
    return RenderedObject(file, value, "", reason, (), 0o644)


def _name(site: _Site, part: str) -> str:
    return f"archwright-{site.name}-{part}"


def _list_applications(site: _Site, definitions: str) -> Iterator[Values]:
    yield _build_application(site, "definitions", "default", definitions)
    for release in site.releases:
        source = {
            # Argo CD writes the address of a registry without its scheme.
            "repoURL": release.repository.removeprefix("oci://"),
            "chart": release.chart,
            "targetRevision": release.version,
            "helm": {
                "releaseName": release.name,
                "skipCrds": release.skips_definitions,
                "valuesObject": release.values,
            },
        }
        yield _wrap_application(site, release.name, release.namespace, source)
    yield _build_application(site, "overlay", "archwright", f"overlays/{site.name}")


def _build_application(site: _Site, part: str, namespace: str, path: str) -> Values:
    source = {"repoURL": REPOSITORY, "targetRevision": BRANCH, "path": f"{site.folder}{path}"}
    return _wrap_application(site, part, namespace, source)


def _wrap_application(site: _Site, part: str, namespace: str, source: Values) -> Values:
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Application",
        "metadata": {"name": _name(site, part), "namespace": "argocd"},
        "spec": {
            "project": "default",
            "source": source,
            "destination": {"server": "https://kubernetes.default.svc", "namespace": namespace},
            "syncPolicy": {
                "automated": {"selfHeal": True},
                # Client-side apply refuses the plan and the larger definitions.
                "syncOptions": ["CreateNamespace=true", "ServerSideApply=true", "SkipDryRunOnMissingResource=true"],
                "retry": {"limit": 10, "backoff": {"duration": "30s", "factor": 2, "maxDuration": "10m"}},
            },
        },
    }


def _list_flux_releases(site: _Site) -> Iterator[Values]:
    """Yield repositories and releases; each release waits for the one before, as in the script."""
    for number, address in enumerate(dict.fromkeys(release.repository for release in site.releases)):
        spec: Values = {"interval": "1h", "url": address}
        if address.startswith("oci://"):
            spec["type"] = "oci"
        yield _wrap_flux("source.toolkit.fluxcd.io/v1", "HelmRepository", _name(site, f"charts-{number}"), spec)
    addresses = list(dict.fromkeys(release.repository for release in site.releases))
    before: list[Values] = []
    for release in site.releases:
        crds = ("Skip", "Skip") if release.skips_definitions else ("Create", "CreateReplace")
        source = {"kind": "HelmRepository", "name": _name(site, f"charts-{addresses.index(release.repository)}")}
        spec = {
            "interval": "1h",
            "releaseName": release.name,
            "targetNamespace": release.namespace,
            "storageNamespace": release.namespace,
            "dependsOn": before,
            "install": {"createNamespace": True, "crds": crds[0], "remediation": {"retries": 5}},
            "upgrade": {"crds": crds[1], "remediation": {"retries": 5}},
            "chart": {"spec": {"chart": release.chart, "version": release.version, "sourceRef": source}},
            "values": release.values,
        }
        yield _wrap_flux("helm.toolkit.fluxcd.io/v2", "HelmRelease", _name(site, release.name), spec)
        before = [{"name": _name(site, release.name)}]


def _list_flux_folders(site: _Site, definitions: str) -> Iterator[Values]:
    repository = {"interval": "5m", "url": REPOSITORY, "ref": {"branch": BRANCH}}
    yield _wrap_flux("source.toolkit.fluxcd.io/v1", "GitRepository", _name(site, "bundle"), repository)
    folders = {
        "definitions": definitions,
        "releases": f"{EXAMPLES}/flux/{site.name}",
        "overlay": f"overlays/{site.name}",
    }
    before: list[Values] = []
    for part, path in folders.items():
        spec = {
            "interval": "10m",
            "path": f"./{site.folder}{path}",
            # Objects that a folder no longer has stay until a person removes them: volumes hold keys and weights.
            "prune": False,
            "wait": part != "overlay",
            "dependsOn": before,
            "sourceRef": {"kind": "GitRepository", "name": _name(site, "bundle")},
        }
        yield _wrap_flux("kustomize.toolkit.fluxcd.io/v1", "Kustomization", _name(site, part), spec)
        before = [{"name": _name(site, part)}]


def _wrap_flux(version: str, kind: str, name: str, spec: Values) -> Values:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": "flux-system"}, "spec": spec}
