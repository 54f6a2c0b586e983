"""Environments of one plan: `stage` beside `prod`, whose objects and places have names of their own.

The suffix of an environment ends the names of namespaces and of what stands outside them: objects of the whole cluster,
and objects in namespaces of operators. A name inside a namespace stays, so the objects of two environments compare
line by line. Clusters and buckets are named after the deployment, whose own name carries the environment.

Design: templates write the names of one environment, and this module renames rendered objects in one place. A template
that forgets the suffix cannot exist, and texts of the plan are no part of what is renamed.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from archwright.deploy.rendering.templating import RenderedObject
from archwright.errors import UsageError

ENVIRONMENT = re.compile(r"[a-z][a-z0-9]{0,7}")
CLUSTER_KINDS = frozenset(
    (
        *("Namespace", "GatewayClass", "ClusterSecretStore", "ClusterQueue", "ResourceFlavor", "PriorityClass"),
        *("WorkloadPriorityClass", "NodePool", "EC2NodeClass", "AKSNodeClass", "ComputeClass"),
    )
)
# Keys whose text, or list of texts, is the name of an object of this kind.
REFERENCE_KEYS = {
    "namespace": "Namespace",
    "namespaces": "Namespace",
    "matchNames": "Namespace",
    "kubernetes.io/metadata.name": "Namespace",
    "gateway.envoyproxy.io/owning-gateway-namespace": "Namespace",
    "gatewayClassName": "GatewayClass",
    "clusterQueue": "ClusterQueue",
    "priorityClassName": "PriorityClass",
    "kueue.x-k8s.io/priority-class": "WorkloadPriorityClass",
    "cloud.google.com/compute-class": "ComputeClass",
}
# Lists whose items refer to an object of one of these kinds by name.
REFERENCE_LISTS = {"flavors": ("ResourceFlavor",), "dependsOn": ("HelmRelease", "Kustomization")}
# The cohort that joins the queues of an environment is no object of its own.
COHORT_KEY = "cohortName"
# Names inside addresses, scripts, policies and read-mes: behind each of them the suffix is inserted.
NAMES_IN_TEXTS = re.compile(
    r"(?<![\w-])archwright-(?:engines|monitoring|database-url)(?![\w-])"
    r"|(?<=\.)archwright(?=\.svc\b)|^gateway\.archwright$|(?<=-n )archwright(?![\w-])|(?<=namespace `)archwright(?=`)"
    r"|(?<=create namespace )archwright(?![\w-])"
    r"|(?<=\.)archwright(?=\.internal\b)"
    r"|(?<=install )archwright(?=/)|(?<=ClusterSecretStore, name: )archwright(?=\})|^archwright(?=/.*\.tfstate$)"
)
# The plan is data: its digest must stay.
PLAN_KEY = "plan.json"
Renamed = frozenset[tuple[str, str]]


def check_environment(name: str, target: str, *, has_cluster: bool) -> None:
    """Raises UsageError AW-USE-98 for a name that no label can end with, or a target with one environment only."""
    if not ENVIRONMENT.fullmatch(name):
        hint = "use 1 to 8 lower-case letters and digits, for example stage"
        raise UsageError("AW-USE-98", f"{name!r} is no name of an environment", hint=hint)
    if not has_cluster:
        hint = "render the other environment for another machine"
        raise UsageError("AW-USE-98", f"target {target} has one environment on a machine", hint=hint)


def name_environment(objects: Sequence[RenderedObject], environment: str) -> list[RenderedObject]:
    """Return the objects with the names of an environment. `objects`: all of a bundle, which refer to each other."""
    renamer = _Renamer(_list_outer_objects(objects), f"-{environment}")
    return [one._replace(value=renamer.rename_object(one.value), text=renamer.rename_text(one.text)) for one in objects]


def _list_outer_objects(objects: Iterable[RenderedObject]) -> Renamed:
    """Return kind and name of what another environment in the same cluster must not share."""
    named = [one.value for one in objects if isinstance(one.value, dict) and {"kind", "metadata"} <= one.value.keys()]
    own_namespaces = {one["metadata"]["name"] for one in named if one["kind"] == "Namespace"}
    return frozenset(
        (one["kind"], one["metadata"]["name"])
        for one in named
        if one["kind"] in CLUSTER_KINDS or one["metadata"].get("namespace", "") not in {"", *own_namespaces}
    )


class _Renamer:
    def __init__(self, renamed: Renamed, suffix: str) -> None:
        self._renamed = renamed
        self._suffix = suffix

    def rename_object(self, value: Any) -> Any:
        """Return an object, or another value of a file, with all names in it."""
        found = self._rename(value, "")
        if isinstance(found, dict) and isinstance(found.get("metadata"), dict):
            name = found["metadata"].get("name")
            metadata = {**found["metadata"], "name": self._rename_reference(found.get("kind", ""), name)}
            return {**found, "metadata": metadata} if name else found
        return found

    def rename_text(self, text: str) -> str:
        return NAMES_IN_TEXTS.sub(lambda found: f"{found[0]}{self._suffix}", text)

    def _rename(self, value: Any, key: str) -> Any:
        """`key`: under which a value, or the list that holds it, stands."""
        if isinstance(value, dict):
            return self._rename_mapping(value, key)
        if isinstance(value, list):
            return [self._rename(item, key) for item in value]
        if not isinstance(value, str) or key == PLAN_KEY:
            return value
        if key == COHORT_KEY:
            return f"{value}{self._suffix}"
        renamed = self._rename_reference(REFERENCE_KEYS.get(key, ""), value)
        return renamed if renamed != value else self.rename_text(value)

    def _rename_mapping(self, value: dict[str, Any], key: str) -> dict[str, Any]:
        found = {inner: self._rename(item, inner) for inner, item in value.items()}
        if isinstance(value.get("name"), str):
            kinds = REFERENCE_LISTS.get(key, (str(value.get("kind", "")),))
            for kind in kinds:
                found["name"] = self._rename_reference(kind, value["name"], otherwise=found["name"])
        if isinstance(value.get("value"), str):  # an item such as a toleration, with the key beside its value
            found["value"] = self._rename(value["value"], str(value.get("key", "")))
        return found

    def _rename_reference(self, kind: str, name: Any, otherwise: Any = None) -> Any:
        if (kind, name) in self._renamed:
            return f"{name}{self._suffix}"
        return name if otherwise is None else otherwise
