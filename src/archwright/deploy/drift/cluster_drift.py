"""Objects of a cluster, as `kubectl get -o json` prints them, against those of a bundle."""

import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from archwright.deploy.drift.field_comparison import compare_fields
from archwright.deploy.drift.findings import Drift, describe_value

PART_LABEL, PART = "app.kubernetes.io/part-of", "archwright"
ClusterObject = dict[str, Any]
# The control plane makes these beside an object, with its labels.
MADE_BY_THE_CLUSTER = frozenset(("Endpoints", "EndpointSlice", "Event", "Pod", "ReplicaSet", "ControllerRevision"))


class ObjectIdentity(NamedTuple):
    """`group` of the API without its version, which a server chooses. `namespace`: empty outside of namespaces."""

    group: str
    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}" + (f" in {self.namespace}" if self.namespace else "")


def identify(item: ClusterObject) -> ObjectIdentity:
    group, slash, _version = item.get("apiVersion", "").rpartition("/")
    metadata = item["metadata"]
    return ObjectIdentity(group if slash else "", item["kind"], metadata.get("namespace", ""), metadata.get("name", ""))


def find_cluster_drift(
    expected: Iterable[ClusterObject],
    known: Iterable[ClusterObject],
    state: Iterable[ClusterObject],
    *,
    environment: str = "",
) -> Iterator[Drift]:
    """Yield what is missing, changed or extra.

    `expected`: objects that the site applies; `known`: all objects of the bundle, such as jobs that a user submits.
    `environment` of the bundle: the cluster may hold others.
    """
    wanted = {identify(item): item for item in expected}
    there = {identify(item): item for item in state}
    for identity, item in wanted.items():
        if identity in there:
            yield from _compare_objects(item, there[identity], str(identity))
        elif not _ends_by_itself(item):
            yield Drift(code="drift.missing", subject=str(identity))
    own = _OwnNames([*known, *wanted.values()], environment)
    for identity, item in there.items():
        if identity not in wanted and own.claims(identity, item):
            yield Drift(code="drift.extra", subject=str(identity))


def _ends_by_itself(item: ClusterObject) -> bool:
    """True for a job that the cluster removes some time after its end."""
    return item["kind"] == "Job" and "ttlSecondsAfterFinished" in item.get("spec", {})


def _compare_objects(expected: ClusterObject, found: ClusterObject, subject: str) -> Iterator[Drift]:
    stated = {key: value for key, value in expected.items() if key not in ("apiVersion", "kind", "status")}
    answered = {key: value for key, value in found.items() if key != "status"}
    for difference in compare_fields(stated, answered):
        yield Drift(
            code="drift.changed",
            subject=subject,
            field=difference.field,
            expected=describe_value(difference.expected),
            found=describe_value(difference.found),
        )


class _OwnNames:
    """Tells whether an object of the cluster should be in the bundle: it has its label and stands in its namespaces."""

    def __init__(self, known: list[ClusterObject], environment: str) -> None:
        self._suffix = f"-{environment}" if environment else ""
        self._known = {identify(item) for item in known}
        self._namespaces = {"", *(item["metadata"]["name"] for item in known if item["kind"] == "Namespace")}
        self._generated = tuple(item["metadata"].get("generateName", "") for item in known)
        self._volumes = tuple(_list_volume_patterns(known))

    def claims(self, identity: ObjectIdentity, item: ClusterObject) -> bool:
        metadata = item["metadata"]
        is_ours = metadata.get("labels", {}).get(PART_LABEL) == PART and identity.namespace in self._namespaces
        is_made = bool(metadata.get("ownerReferences")) or identity.kind in MADE_BY_THE_CLUSTER
        if not identity.namespace and not identity.name.endswith(self._suffix):
            return False
        return is_ours and not is_made and identity not in self._known and not self._is_derived(identity)

    def _is_derived(self, identity: ObjectIdentity) -> bool:
        """True for a job that a user submitted, and for the volume of a StatefulSet."""
        if any(prefix and identity.name.startswith(prefix) for prefix in self._generated):
            return True
        return identity.kind == "PersistentVolumeClaim" and any(
            re.fullmatch(pattern, identity.name) for pattern in self._volumes
        )


def _list_volume_patterns(known: Iterable[ClusterObject]) -> Iterator[str]:
    for item in known:
        for template in item.get("spec", {}).get("volumeClaimTemplates", []) if item["kind"] == "StatefulSet" else []:
            yield rf"{re.escape(template['metadata']['name'])}-{re.escape(item['metadata']['name'])}-\d+"
