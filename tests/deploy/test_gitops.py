"""Examples for Argo CD and Flux: the releases of install.sh with their values, and folders that are there."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

import pytest
import yaml
from tests.deploy.conftest import MadeBundle

from archwright.deploy.cluster.gitops import set_value
from archwright.deploy.rendering.bundle import FileBundle

from .object_rules import Item

CASES = (("startup", "aws", "cloud-aws"), ("clinic", "kubernetes", "on-premises"))
Rendered = Callable[[str, str, str, str], FileBundle]


@pytest.fixture(scope="module")
def rendered(made_bundle: MadeBundle) -> Rendered:
    return lambda name, target, option, environment: made_bundle(name, target, option, environment=environment)


def read_items(bundle: FileBundle, pattern: str) -> list[Item]:
    """Return the documents of the files whose path matches, in the order of the files."""
    texts = [file.text for path, file in sorted(bundle.files.items()) if re.search(pattern, path)]
    return [item for text in texts for item in yaml.load_all(text, yaml.CSafeLoader)]


def list_script_releases(bundle: FileBundle) -> list[tuple[str, str, str]]:
    """Name, namespace and version of each chart that the script installs, without what a variable adds."""
    text = next(file.text for path, file in bundle.files.items() if path.endswith("/install.sh"))
    text = re.sub(r'^if \[ "\$\{RAY.*?^fi$', "", text, flags=re.MULTILINE | re.DOTALL)
    versions = dict(re.findall(r"^pull (\S+) .*--version (\S+)$", text, re.MULTILINE))
    found = re.findall(r"^helm (?:upgrade --install|template) (\S+) (.*)$", text, re.MULTILINE)
    return [
        (name, one[1] if (one := re.search(r"--namespace (\S+)", rest)) else name, versions[name])
        for name, rest in found
    ]


def list_argo_releases(bundle: FileBundle) -> list[tuple[str, str, str]]:
    specs = [one["spec"] for one in read_items(bundle, r"argo-cd/[^/]+/applications\.yaml$")]
    charts = [one for one in specs if "chart" in one["source"]]
    return [
        (
            one["source"]["helm"]["releaseName"],
            one["destination"]["namespace"],
            one["source"]["targetRevision"],
        )
        for one in charts
    ]


def list_flux_releases(bundle: FileBundle) -> list[tuple[str, str, str]]:
    items = read_items(bundle, r"flux/[^/]+/releases\.yaml$")
    specs = [one["spec"] for one in items if one["kind"] == "HelmRelease"]
    return [(one["releaseName"], one["targetNamespace"], one["chart"]["spec"]["version"]) for one in specs]


@pytest.mark.parametrize(("name", "target", "option"), CASES)
@pytest.mark.parametrize("environment", ["", "stage"])
def test_both_examples_install_what_the_script_installs(
    rendered: Rendered, name: str, target: str, option: str, environment: str
) -> None:
    bundle = rendered(name, target, option, environment)
    wanted = list_script_releases(bundle)
    assert len(wanted) > 8
    assert list_argo_releases(bundle) == list_flux_releases(bundle) == wanted


@pytest.mark.parametrize(("name", "target", "option"), CASES)
def test_values_are_those_of_the_script(rendered: Rendered, name: str, target: str, option: str) -> None:
    bundle = rendered(name, target, option, "")
    items = read_items(bundle, r"flux/[^/]+/releases\.yaml$")
    values = {one["spec"]["releaseName"]: one["spec"]["values"] for one in items if one["kind"] == "HelmRelease"}
    argo = [one["spec"]["source"] for one in read_items(bundle, r"argo-cd/[^/]+/applications\.yaml$")]
    assert {one["helm"]["releaseName"]: one["helm"]["valuesObject"] for one in argo if "helm" in one} == values
    assert values["cert-manager"]["crds"] == {"enabled": True, "keep": True}
    (stack,) = read_items(bundle, r"values-kube-prometheus-stack\.yaml$")
    assert values["kube-prometheus-stack"] == stack, "what PROMETHEUS_URL adds is a choice of the person"
    if option == "cloud-aws":
        assert values["karpenter"]["nodeSelector"] == {"archwright.dev/node-class": "system"}
        assert values["karpenter"]["settings"]["featureGates"]["nodeRepair"] is True
    else:
        assert values["nvsentinel"]["global"]["janitor"]["enabled"] is False, "detection only, as without REPAIR"
    assert "$" not in yaml.safe_dump({key: one for key, one in values.items() if key != "kube-prometheus-stack"})


@pytest.mark.parametrize(("name", "target", "option"), CASES)
def test_definitions_come_from_where_the_script_takes_them(
    rendered: Rendered, name: str, target: str, option: str
) -> None:
    bundle = rendered(name, target, option, "")
    (definitions,) = read_items(bundle, r"examples/definitions/[^/]+/kustomization\.yaml$")
    script = next(file.text for path, file in bundle.files.items() if path.endswith("/install.sh"))
    assert definitions["resources"] == re.findall(r"^ *fetch \S+ \S+ (\S+)$", script, re.MULTILINE)
    assert len(definitions["resources"]) == 2
    flux = read_items(bundle, r"flux/[^/]+/releases\.yaml$")
    skipped = {one["spec"]["releaseName"] for one in flux if one["spec"].get("install", {}).get("crds") == "Skip"}
    sources = [one["spec"]["source"] for one in read_items(bundle, r"argo-cd/[^/]+/applications\.yaml$")]
    helm = [one["helm"] for one in sources if "helm" in one]
    assert skipped == {one["releaseName"] for one in helm if one["skipCrds"]} == {"envoy-gateway"}


@pytest.mark.parametrize(("name", "target", "option"), CASES)
@pytest.mark.parametrize("environment", ["", "stage"])
def test_every_folder_and_every_reference_is_there(
    rendered: Rendered, name: str, target: str, option: str, environment: str
) -> None:
    bundle = rendered(name, target, option, environment)
    folders = {str(parent) for path in bundle.files for parent in PurePosixPath(path).parents}
    items = [*read_items(bundle, r"examples/argo-cd/"), *read_items(bundle, r"examples/flux/")]
    names = {(one["kind"], one["metadata"]["name"]) for one in items}
    assert len(names) == len(items)
    for one in items:
        spec: dict[str, Any] = one["spec"]
        path = spec.get("path") or spec.get("source", {}).get("path")
        assert path is None or path.removeprefix("./") in folders, path
        references = [spec.get("sourceRef"), spec.get("chart", {}).get("spec", {}).get("sourceRef")]
        for reference in filter(None, references):
            assert (reference["kind"], reference["name"]) in names
        for before in spec.get("dependsOn", []):
            assert (one["kind"], before["name"]) in names
    waves = [
        int(one["metadata"]["annotations"]["argocd.argoproj.io/sync-wave"])
        for one in read_items(bundle, r"argo-cd/[^/]+/applications\.yaml$")
    ]
    assert waves == sorted(waves) and len(set(waves)) == len(waves)


@pytest.mark.parametrize(
    ("key", "wanted"),
    [
        ("a", {"a": 1}),
        ("a.b", {"a": {"b": 1}}),
        (r"a.b\.c/d", {"a": {"b.c/d": 1}}),
        ("a[0].b", {"a": [{"b": 1}]}),
        ("a[0]", {"a": [1]}),
    ],
)
def test_keys_are_read_as_helm_reads_them(key: str, wanted: dict[str, Any]) -> None:
    values: dict[str, Any] = {}
    set_value(values, key, 1)
    assert values == wanted
    set_value(values, "other", 2)
    assert values == {**wanted, "other": 2}
