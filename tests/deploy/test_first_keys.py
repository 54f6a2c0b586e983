"""First keys of a cluster: the job's commands, the rights they need, and keys that stand in secrets and in no output.

A small server with TLS stands in for the API of Kubernetes. It checks token, role and
version.
"""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.deploy.conftest import MadeBundle

from archwright import api, settings
from archwright.api.context import open_keys
from archwright.errors import InputError, OperateError
from archwright.home import Home
from archwright.settings import ClusterAccess

from ..command_line import CommandLine
from ..tools.http_server import QuietHandler, ServerThread
from .object_rules import Item, read_objects

pytestmark = pytest.mark.enable_socket
TOKEN = "the-token-of-the-pod"
CERTIFICATE = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=loopback "
    "-addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out ca.crt"
)


class FakeCluster:
    """Secrets by NAMESPACE/NAME. `rights`: what the token may read and change; `refused`: whose changes fail."""

    def __init__(self, folder: Path) -> None:
        self.secrets: dict[str, Item] = {}
        self.rights: set[str] = set()
        self.refused: set[str] = set()
        cluster = self

        class Handler(_Handler):
            server_cluster = cluster

        subprocess.run(CERTIFICATE.split(), cwd=folder, check=True, capture_output=True)
        (folder / "token").write_text(f"{TOKEN}\n")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "ca.crt", folder / "key.pem")
        self._server = ServerThread(Handler, context)
        self.access = ClusterAccess(f"https://127.0.0.1:{self._server.port}", folder)

    def apply(self, items: list[Item]) -> None:
        """Create the secrets, and give the token the rights of the roles."""
        for item in items:
            namespace = item["metadata"].get("namespace")
            if item["kind"] == "Secret":
                self.secrets[f"{namespace}/{item['metadata']['name']}"] = {"metadata": {"resourceVersion": "1"}}
            elif item["kind"] == "Role":
                (rule,) = item["rules"]
                assert (rule["resources"], set(rule["verbs"])) == (["secrets"], {"get", "patch"})
                self.rights |= {f"{namespace}/{name}" for name in rule["resourceNames"]}

    def read(self, place: str, field: str) -> str:
        return base64.b64decode(self.secrets[place]["data"][field]).decode()

    def close(self) -> None:
        self._server.close()


class _Handler(QuietHandler):
    server_cluster: FakeCluster

    def do_GET(self) -> None:
        self._answer(None)

    def do_PATCH(self) -> None:
        assert self.headers["Content-Type"] == "application/merge-patch+json"
        self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _answer(self, change: Item | None) -> None:
        cluster = self.server_cluster
        _, _, _, _, namespace, kind, name = self.path.split("/")
        place = f"{namespace}/{name}"
        secret: dict[str, Any] = cluster.secrets.get(place, {})
        if self.headers["Authorization"] != f"Bearer {TOKEN}" or kind != "secrets" or place not in cluster.rights:
            self._send(403, {})
        elif place not in cluster.secrets:
            self._send(404, {})
        elif change is not None and place in cluster.refused:
            self._send(409, {})
        else:
            if change is not None:
                assert change["metadata"]["resourceVersion"] == secret["metadata"]["resourceVersion"]
                secret.setdefault("data", {}).update(change["data"])
                secret["metadata"]["resourceVersion"] = "2"
            self._send(200, secret)

    def _send(self, status: int, body: Item) -> None:
        self.send(status, json.dumps(body).encode())


@pytest.fixture
def cluster(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCluster]:
    folder = tmp_path / "serviceaccount"
    folder.mkdir()
    made = FakeCluster(folder)
    monkeypatch.setattr(settings, "read_cluster_access", lambda: made.access)
    try:
        yield made
    finally:
        made.close()


def read_keys_folder(made_bundle: MadeBundle, environment: str = "") -> list[Item]:
    files = made_bundle("startup", "kubernetes", "cloud-aws", environment=environment).files
    return [item for path, file in files.items() if path.startswith("keys/") for item in read_objects(file.text)]


def find_job(items: list[Item]) -> Item:
    job = next(one for one in items if one["kind"] == "Job")
    spec: Item = job["spec"]["template"]["spec"]
    return spec


@pytest.mark.parametrize("environment", ["", "stage"])
def test_the_job_of_the_bundle_writes_keys_that_work(
    made_bundle: MadeBundle, cluster: FakeCluster, cli: CommandLine, environment: str
) -> None:
    items = read_keys_folder(made_bundle, environment)
    suffix = f"-{environment}" if environment else ""
    cluster.apply(items)
    lines = find_job(items)["containers"][0]["args"][0].splitlines()
    said = "".join(cli.text(line.removeprefix("archwright ")) for line in lines)
    wanted = {
        (f"archwright{suffix}/owner-key", "key"): "owner",
        (f"archwright{suffix}/validation-key", "key"): "member",
        (f"archwright-monitoring{suffix}/archwright-metrics", "gateway-key"): "monitor",
    }
    with open_keys() as (keys, _home, _store):
        for place, role in wanted.items():
            secret = cluster.read(*place)
            principal = keys.identify(secret)
            assert principal is not None and principal.role == role, place
            assert secret not in said, "logs of a pod are kept by others"
    before = json.dumps(cluster.secrets)
    again = "".join(cli.text(line.removeprefix("archwright ")) for line in lines)
    assert json.dumps(cluster.secrets) == before, "a job that runs again keeps every key"
    assert len(api.key.list()) == 3 and again


def test_the_job_uses_the_pepper_of_the_gateway(made_bundle: MadeBundle) -> None:
    """It mounts the volume of the StatefulSet in the same place, on its node; others read its secrets."""
    bundle = made_bundle("startup", "kubernetes", "cloud-aws")
    pod = find_job(read_keys_folder(made_bundle))
    gateway = next(
        item
        for path, file in bundle.files.items()
        if path.endswith("/gateway.yaml")
        for item in yaml.load_all(file.text, yaml.CSafeLoader)
        if item["kind"] == "StatefulSet"
    )
    (template,) = gateway["spec"]["volumeClaimTemplates"]
    volume = next(one for one in pod["volumes"] if "persistentVolumeClaim" in one)
    claim = f"{template['metadata']['name']}-{gateway['metadata']['name']}-0"
    assert volume["persistentVolumeClaim"]["claimName"] == claim
    mounts = gateway["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    where = {one["name"]: one["mountPath"] for one in mounts}["home"]
    assert {one["name"]: one["mountPath"] for one in pod["containers"][0]["volumeMounts"]}["home"] == where
    (affinity,) = pod["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    labels = gateway["spec"]["template"]["metadata"]["labels"]
    assert affinity["labelSelector"]["matchLabels"].items() <= labels.items()
    texts = "".join(file.text for path, file in bundle.files.items() if not path.startswith("keys/"))
    assert "key: gateway-key" in texts and "name: validation-key" in texts


def test_a_key_that_cannot_be_written_is_revoked(cluster: FakeCluster, made_bundle: MadeBundle) -> None:
    cluster.apply(read_keys_folder(made_bundle))
    cluster.refused.add("archwright/owner-key")
    with pytest.raises(OperateError, match="status 409") as caught:
        api.key.install("archwright/owner-key:key", role="owner")
    assert caught.value.code == "AW-OPS-74"
    (made,) = api.key.list()
    assert made.revoked
    with pytest.raises(OperateError, match="status 403"):
        api.key.install("archwright/of-others:key")
    with pytest.raises(InputError) as wrong:
        api.key.install("owner-key")
    assert wrong.value.code == "AW-USE-78"


def test_outside_of_a_cluster_nothing_is_made(home: Home, cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert "AW-SET-02" in cli.error("key install archwright/owner-key:key", 2)
    assert api.key.list() == ()
