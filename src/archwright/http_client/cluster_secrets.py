"""Secrets of the Kubernetes cluster that this process runs in, by the token of its pod.

The pod may read and change the secrets that its role names, and no other. A change states the version that was read, so
two writers cannot replace each other's value.
"""

import base64
import json
import re
import ssl
from http import HTTPStatus
from typing import Any, NamedTuple

from archwright.errors import ErrorLocation, OperateError, UsageError
from archwright.http_client.blocking_client import BlockingClient, NoReply
from archwright.settings import ClusterAccess

ANSWER_WITHIN_S = 30.0
REFERENCE = re.compile(r"(?P<namespace>[a-z0-9-]+)/(?P<name>[a-z0-9.-]+):(?P<field>[\w.-]+)")


class SecretField(NamedTuple):
    """A field of a secret, written NAMESPACE/NAME:FIELD."""

    namespace: str
    name: str
    field: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}:{self.field}"


def parse_secret_field(text: str) -> SecretField:
    """Raises UsageError AW-USE-78 for a text of another form."""
    found = REFERENCE.fullmatch(text)
    if found is None:
        hint = "write for example archwright/owner-key:key"
        raise UsageError("AW-USE-78", f"{text[:100]!r} is not NAMESPACE/NAME:FIELD", hint=hint)
    return SecretField(found["namespace"], found["name"], found["field"])


class ClusterSecrets:
    """The secrets that the role of this pod names. Each request raises OperateError AW-OPS-74 if it fails."""

    def __init__(self, access: ClusterAccess) -> None:
        self._access = access
        authority = ssl.create_default_context(cafile=access.authority_file)
        self._client = BlockingClient(ANSWER_WITHIN_S, tls=authority)

    def read_version(self, target: SecretField) -> str | None:
        """Return the version of a secret whose field is empty, None if it has a value."""
        secret = self._request("GET", target, None)
        if (secret.get("data") or {}).get(target.field):
            return None
        return str(secret["metadata"]["resourceVersion"])

    def write_field(self, target: SecretField, value: str, version: str) -> None:
        """Set a field of the secret, if the secret still has the version."""
        data = {target.field: base64.b64encode(value.encode()).decode()}
        self._request("PATCH", target, {"metadata": {"resourceVersion": version}, "data": data})

    def _request(self, method: str, target: SecretField, change: dict[str, Any] | None) -> dict[str, Any]:
        url = f"{self._access.url}/api/v1/namespaces/{target.namespace}/secrets/{target.name}"
        # The kubelet renews the token, so its file is read for each request.
        headers = {"Authorization": f"Bearer {self._access.read_token()}"}
        body = None
        if change is not None:
            headers["Content-Type"] = "application/merge-patch+json"
            body = json.dumps(change).encode()
        try:
            answer = self._client.send(method, url, headers=headers, body=body)
        except NoReply as error:
            raise _refuse(target, f"the cluster cannot be reached ({error})") from error
        if answer.status >= HTTPStatus.BAD_REQUEST:
            raise _refuse(target, f"the cluster answered with status {answer.status}")
        try:
            found = json.loads(answer.body)
        except ValueError as error:
            raise _refuse(target, f"the cluster cannot be reached ({error})") from error
        if not isinstance(found, dict):
            raise _refuse(target, "the cluster gave no secret")
        return found


def _refuse(target: SecretField, reason: str) -> OperateError:
    hint = "apply the secrets and the role of keys/SITE first; see the README of the bundle"
    message = f"the secret cannot be written: {reason}"
    return OperateError("AW-OPS-74", message[:300], where=ErrorLocation(field=str(target)), hint=hint)
