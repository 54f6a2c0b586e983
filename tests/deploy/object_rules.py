"""Rules for Kubernetes objects that no schema states: labels, quantities, ports, accelerators, images, security.

Each rule yields one text for each problem. `check_objects` runs all of them on the objects of one cluster.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, cast

import yaml

Item = dict[str, Any]

LABELS = ("app.kubernetes.io/name", "app.kubernetes.io/part-of", "app.kubernetes.io/component")
NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
QUANTITY = re.compile(r"\d+(\.\d+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?")
IMAGE = re.compile(r"[a-z0-9][\w./:-]*:[\w.-]+@sha256:([0-9a-f]{64}|unresolved)")
UNITS = {"": 1.0, "m": 1e-3, "k": 1e3, **{unit: 1000.0**n for n, unit in enumerate("MGTPE", 2)}}
UNITS.update({f"{unit}i": 1024.0**n for n, unit in enumerate("KMGTPE", 1)})
RESTART = {
    "Deployment": {"Always"},
    "StatefulSet": {"Always"},
    "DaemonSet": {"Always"},
    "Job": {"OnFailure", "Never"},
    "CronJob": {"OnFailure", "Never"},
}
PULL = {"Always", "IfNotPresent", "Never"}
HOST = ("hostNetwork", "hostPID", "hostIPC")
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


class Pod(NamedTuple):
    """The template of pods inside an object: `labels` and `spec`, and the claims that the object adds as volumes."""

    owner: Item
    labels: dict[str, str]
    spec: Item
    claims: tuple[str, ...]

    @property
    def title(self) -> str:
        return title(self.owner)

    @property
    def containers(self) -> list[Item]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]


class StrictLoader(yaml.CSafeLoader):
    """Refuses duplicate keys and keeps times as texts, like the server, which reads JSON."""


def _construct_mapping(loader: StrictLoader, node: yaml.MappingNode) -> Item:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    twice = sorted({str(key) for key in keys if keys.count(key) > 1})
    if twice:
        raise yaml.YAMLError(f"duplicate key {twice} at line {node.start_mark.line + 1}")
    return cast(Item, loader.construct_mapping(node, deep=True))


StrictLoader.add_constructor("tag:yaml.org,2002:map", _construct_mapping)
# The bare "=" of a schema is a text, and so is a time.
for tag in ("value", "timestamp"):
    StrictLoader.add_constructor(f"tag:yaml.org,2002:{tag}", lambda _, node: node.value)


def read_objects(text: str) -> list[Item]:
    """Return the objects of a YAML text; lists are taken apart. Raises yaml.YAMLError."""
    documents = [one for one in yaml.load_all(text, StrictLoader) if isinstance(one, dict)]
    return [item for one in documents for item in (one["items"] if one.get("kind") == "List" else [one])]


def title(item: Item) -> str:
    return f"{item.get('kind')}/{(item.get('metadata') or {}).get('name')}"


def namespace(item: Item) -> str:
    return str((item.get("metadata") or {}).get("namespace", ""))


def find_pods(item: Item) -> Iterator[Pod]:
    """Yield the templates of pods of any kind, custom ones too: each mapping that has containers."""
    spec = item.get("spec") if isinstance(item.get("spec"), dict) else {}
    claims = tuple(one["metadata"]["name"] for one in (spec or {}).get("volumeClaimTemplates") or [])
    yield from _walk_pods(item, item, claims)


def _walk_pods(item: Item, value: object, claims: tuple[str, ...]) -> Iterator[Pod]:
    if isinstance(value, list):
        for one in value:
            yield from _walk_pods(item, one, claims)
    elif isinstance(value, dict):
        spec = value.get("spec")
        if isinstance(spec, dict) and isinstance(spec.get("containers"), list):
            yield Pod(item, (value.get("metadata") or {}).get("labels") or {}, spec, claims)
        for one in value.values():
            yield from _walk_pods(item, one, claims)


def _all_pods(items: Iterable[Item]) -> list[Pod]:
    return [pod for item in items for pod in find_pods(item)]


def check_labels(items: list[Item]) -> Iterator[str]:
    """Names are names of DNS, and each object has the three labels of the project."""
    for item in items:
        name = str((item.get("metadata") or {}).get("name", ""))
        if not NAME.fullmatch(name):
            yield f"{title(item)}: {name!r} is no name of DNS"
        labels = (item.get("metadata") or {}).get("labels") or {}
        missing = [name for name in LABELS if not labels.get(name)]
        if missing:
            yield f"{title(item)}: no label {', '.join(missing)}"


def check_selectors(items: list[Item]) -> Iterator[str]:
    """A workload selects its own pods; a Service and a budget for disruptions select pods of the bundle."""
    pods = _all_pods(items)
    for item in items:
        kind, spec = item.get("kind"), item.get("spec") or {}
        if kind in ("Deployment", "StatefulSet", "DaemonSet"):
            wanted = (spec.get("selector") or {}).get("matchLabels") or {}
            own = next(iter(find_pods(item)), None)
            if own is not None and not wanted.items() <= own.labels.items():
                yield f"{title(item)}: the selector {wanted} does not match the labels {own.labels}"
        elif kind in ("Service", "PodDisruptionBudget"):
            selector = spec.get("selector") or {}
            wanted = dict(selector.get("matchLabels") or {} if kind == "PodDisruptionBudget" else selector)
            if not _is_known(wanted):
                continue
            wanted.pop("leaderworkerset.sigs.k8s.io/worker-index", None)  # the controller adds this label
            here = [pod for pod in pods if namespace(pod.owner) == namespace(item)]
            if not any(wanted.items() <= pod.labels.items() for pod in here):
                yield f"{title(item)}: no pod of the bundle has the labels {wanted}"


def _is_known(wanted: dict[str, str]) -> bool:
    """True if the labels are ours: an operator sets others on pods that no file of the bundle has."""
    return any(name in wanted for name in (*LABELS, "archwright.dev/pool"))


def check_quantities(items: list[Item]) -> Iterator[str]:
    for item in items:
        for path, value in _find_quantities(item, ""):
            if not QUANTITY.fullmatch(str(value)):
                yield f"{title(item)}: {path} is {value!r}, which is no quantity"
    for pod in _all_pods(items):
        for container in pod.containers:
            resources = container.get("resources") or {}
            requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
            for name in requests.keys() & limits.keys():
                if _is_more(requests[name], limits[name]):
                    yield f"{pod.title}: {container['name']} requests more {name} than its limit"


def _find_quantities(value: object, path: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, list):
        for one in value:
            yield from _find_quantities(one, path)
    elif isinstance(value, dict):
        for name, one in value.items():
            if name == "resources" and isinstance(one, dict):
                for part in ("requests", "limits"):
                    found = one.get(part)
                    yield from ((f"{path}.{part}.{key}", v) for key, v in (found or {}).items())
            if name == "sizeLimit" or (name == "storage" and isinstance(one, str)):
                yield f"{path}.{name}", one
            if name == "hard" and isinstance(one, dict):
                yield from ((f"{path}.hard.{key}", v) for key, v in one.items())
            yield from _find_quantities(one, f"{path}.{name}")


def _is_more(one: object, other: object) -> bool:
    amounts = [parse_quantity(str(value)) for value in (one, other)]
    return None not in amounts and cast(float, amounts[0]) > cast(float, amounts[1])


def parse_quantity(text: str) -> float | None:
    found = re.fullmatch(r"([\d.]+)([a-zA-Z]*)", text)
    return float(found[1]) * UNITS[found[2]] if found and found[2] in UNITS else None


def check_ports(items: list[Item]) -> Iterator[str]:
    """Probes and Services name ports that the containers have."""
    pods = _all_pods(items)
    for pod in pods:
        for container in pod.containers:
            known = {
                value for port in container.get("ports") or [] for value in (port.get("name"), port["containerPort"])
            }
            for probe in PROBES:
                for action in ("httpGet", "tcpSocket", "grpc"):
                    wanted = ((container.get(probe) or {}).get(action) or {}).get("port")
                    if wanted is not None and wanted not in known:
                        yield f"{pod.title}: {probe} of {container['name']} names port {wanted}, which is not there"
    for item in items:
        spec = item.get("spec") or {}
        if item.get("kind") != "Service" or not _is_known(spec.get("selector") or {}):
            continue
        wanted_labels = {k: v for k, v in spec["selector"].items() if not k.startswith("leaderworkerset")}
        matched = [pod for pod in pods if wanted_labels.items() <= pod.labels.items()]
        known = {
            value
            for pod in matched
            for container in pod.spec["containers"]
            for port in container.get("ports") or []
            for value in (port.get("name"), port["containerPort"])
        }
        for port in spec.get("ports") or []:
            target = port.get("targetPort", port["port"])
            if matched and target not in known:
                yield f"{title(item)}: the target port {target} is not one of its pods"


def check_accelerators(items: list[Item]) -> Iterator[str]:
    """An extended resource cannot be shared: its request is its limit, a whole number."""
    for pod in _all_pods(items):
        for container in pod.containers:
            resources = container.get("resources") or {}
            requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
            for name in sorted({name for part in (requests, limits) for name in part if "/" in name}):
                request, limit = requests.get(name, limits.get(name)), limits.get(name)
                if str(request) != str(limit) or not str(limit).isdigit():
                    yield f"{pod.title}: {container['name']} requests {request} {name}, with the limit {limit}"


def check_enums(items: list[Item]) -> Iterator[str]:
    for pod in _all_pods(items):
        allowed = RESTART.get(str(pod.owner.get("kind")), {"Always", "OnFailure", "Never"})
        policy = pod.spec.get("restartPolicy", "Always")
        if policy not in allowed:
            yield f"{pod.title}: restartPolicy {policy} is not one of {', '.join(sorted(allowed))}"
        for container in pod.containers:
            pull = container.get("imagePullPolicy", "IfNotPresent")
            if pull not in PULL:
                yield f"{pod.title}: imagePullPolicy {pull} of {container['name']} does not exist"


def check_images(items: list[Item]) -> Iterator[str]:
    for pod in _all_pods(items):
        for container in pod.containers:
            if not IMAGE.fullmatch(str(container.get("image", ""))):
                yield f"{pod.title}: the image {container.get('image')} of {container['name']} has no digest"


def check_security(items: list[Item]) -> Iterator[str]:
    """Pods are as restricted as Pod Security's level "restricted", and their root file system is read-only."""
    for pod in _all_pods(items):
        spec, context = pod.spec, pod.spec.get("securityContext") or {}
        wrong = [name for name in HOST if spec.get(name)]
        wrong += ["hostPath" for volume in spec.get("volumes") or [] if "hostPath" in volume]
        for container in pod.containers:
            own = container.get("securityContext") or {}
            both = {**context, **own}
            seccomp = (both.get("seccompProfile") or {}).get("type")
            facts = {
                "privileged": bool(own.get("privileged")),
                "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is not False,
                "runAsNonRoot": both.get("runAsNonRoot") is not True,
                "seccompProfile": seccomp not in ("RuntimeDefault", "Localhost"),
                "capabilities": "ALL" not in ((own.get("capabilities") or {}).get("drop") or []),
                "readOnlyRootFilesystem": own.get("readOnlyRootFilesystem") is not True,
            }
            wrong += [f"{name} of {container['name']}" for name, is_wrong in facts.items() if is_wrong]
        if wrong:
            yield f"{pod.title}: not restricted: {', '.join(wrong)}"


def list_first_claims(items: list[Item]) -> Iterator[tuple[str, str, str]]:
    """Yield the claims of the first replica of each StatefulSet: kind, namespace, name."""
    for pod in _all_pods(items):
        name = pod.owner["metadata"].get("name")
        for claim in pod.claims:
            yield "PersistentVolumeClaim", namespace(pod.owner), f"{claim}-{name}-0"


def check_mounts(items: list[Item]) -> Iterator[str]:
    """Mounts name volumes, and volumes name ConfigMaps and claims of the bundle. No object holds a secret."""
    known = {(item.get("kind"), namespace(item), (item.get("metadata") or {}).get("name")) for item in items}
    known |= set(list_first_claims(items))
    for pod in _all_pods(items):
        volumes = {one["name"] for one in pod.spec.get("volumes") or []} | set(pod.claims)
        for container in pod.containers:
            for mount in container.get("volumeMounts") or []:
                if mount["name"] not in volumes:
                    yield f"{pod.title}: {container['name']} mounts {mount['name']}, which is no volume"
        for volume in pod.spec.get("volumes") or []:
            for kind, name in (
                ("ConfigMap", (volume.get("configMap") or {}).get("name")),
                ("PersistentVolumeClaim", (volume.get("persistentVolumeClaim") or {}).get("claimName")),
            ):
                if name is not None and (kind, namespace(pod.owner), name) not in known:
                    yield f"{pod.title}: the volume {volume['name']} names {kind}/{name}, which no file has"
    for item in items:
        if item.get("kind") == "Secret" and (item.get("data") or item.get("stringData")):
            yield f"{title(item)}: a rendered file holds a secret"


def check_endings(items: list[Item]) -> Iterator[str]:
    """A hook before the end is shorter than the time to end."""
    for pod in _all_pods(items):
        grace = pod.spec.get("terminationGracePeriodSeconds", 30)
        for container in pod.containers:
            hook = ((container.get("lifecycle") or {}).get("preStop") or {}).get("sleep") or {}
            if hook.get("seconds", 0) >= grace:
                yield f"{pod.title}: {container['name']} waits {hook['seconds']} s of {grace} s before its signal"


RULES: tuple[Callable[[list[Item]], Iterator[str]], ...] = (
    check_labels,
    check_selectors,
    check_quantities,
    check_ports,
    check_accelerators,
    check_enums,
    check_images,
    check_security,
    check_mounts,
    check_endings,
)


def check_objects(items: list[Item]) -> list[str]:
    """Return the problems of the objects of one cluster."""
    return [problem for rule in RULES for problem in rule(items)]
