"""Digests of images, charts and files, read from the servers that hold them: the registry interface of OCI, and HTTP.

A digest is that of the bytes that came; a server that states another one is refused. A registry that wants a token
names the service that gives one (RFC 6750), and anonymous tokens read public images.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

from archwright.errors import ErrorLocation, MissingError
from archwright.http_client.blocking_client import BlockingClient, NoReply

ANSWER_WITHIN_S = 30.0
BODY_LIMIT_BYTES = 64 << 20
# An image of several platforms has an index, whose digest a bundle pins: each node takes its own platform from it.
MANIFEST_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
CHART_LAYER = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
CHALLENGE_PARAMETER = re.compile(r'(\w+)="([^"]*)"')
# Docker's own name for its registry is not the address that answers.
REGISTRY_HOSTS = {"docker.io": "registry-1.docker.io"}
HINT = "connect to a network that reaches the server, or write the digest into pins.json by hand"
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")


class RegistryReference(NamedTuple):
    """`host` of the registry with its port, `name` of the repository there, and its `tag`."""

    host: str
    name: str
    tag: str

    @property
    def url(self) -> str:
        """The address of the manifest. As in Docker, a registry of this machine may answer without TLS."""
        scheme = "http" if urlsplit(f"//{self.host}").hostname in LOOPBACK_HOSTS else "https"
        address = REGISTRY_HOSTS.get(self.host, self.host)
        return f"{scheme}://{address}/v2/{self.name}/manifests/{self.tag}"


def parse_registry_reference(text: str) -> RegistryReference:
    """Return the parts of HOST/NAME:TAG. Raises MissingError AW-GET-14 for a name without a registry or a tag.

    A name without a registry would be looked up at a public one, where strangers choose what it means.
    """
    host, _, path = text.partition("/")
    name, _, tag = path.rpartition(":")
    if not path or not re.search(r"[.:]|^localhost$", host):
        hint = f"push the image to your registry, and write HOST/{text} as its reference"
        raise MissingError("AW-GET-14", f"the reference {text} names no registry", hint=hint)
    if not name or not tag:
        hint = "write the reference as HOST/NAME:TAG"
        raise MissingError("AW-GET-14", f"the reference {text} has no tag", hint=hint)
    is_official = host == "docker.io" and "/" not in name
    return RegistryReference(host, f"library/{name}" if is_official else name, tag)


class RegistryClient:
    """The requests of one command. Each raises MissingError AW-GET-14 if the digest cannot be found out."""

    def __init__(self, timeout_s: float = ANSWER_WITHIN_S) -> None:
        # A token is for its host only: no header goes along with a redirect.
        self._client = BlockingClient(timeout_s, uses_proxy=True, follows_redirects=True)
        self._tokens: dict[str, str] = {}

    def read_image_digest(self, reference: str) -> str:
        """Return the digest of the index or manifest that a tag names now, as "sha256:..."."""
        return _digest(self._read_manifest(parse_registry_reference(reference)))

    def read_chart_digest(self, repository: str, version: str) -> str:
        """Return the digest of the archive of a chart at `oci://HOST/NAME`, the file that `helm pull` writes."""
        image = parse_registry_reference(f"{repository.removeprefix('oci://')}:{version}")
        manifest = _decode_object(self._read_manifest(image), image.url)
        for layer in manifest.get("layers") or []:
            if layer.get("mediaType") == CHART_LAYER and DIGEST.fullmatch(str(layer.get("digest"))):
                return str(layer["digest"])
        raise _refuse(image.url, "it is no manifest of a chart")

    def read_file_digest(self, url: str) -> str:
        """Return the digest of the file at a URL."""
        return _digest(self.read_file(url))

    def read_file(self, url: str) -> bytes:
        return self._request(url, {}).body

    def _read_manifest(self, image: RegistryReference) -> bytes:
        scope = f"{image.host}/{image.name}"
        try:
            return self._request_manifest(image, self._tokens.get(scope, ""))
        except _Unauthorized as refusal:
            self._tokens[scope] = self._fetch_token(refusal.challenge, image)
        try:
            return self._request_manifest(image, self._tokens[scope])
        except _Unauthorized as refusal:
            raise _refuse(image.url, "the registry wants an account") from refusal

    def _request_manifest(self, image: RegistryReference, token: str) -> bytes:
        headers = {"Accept": ", ".join(MANIFEST_TYPES)}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        reply = self._request(image.url, headers)
        found = _digest(reply.body)
        if reply.stated_digest not in ("", found):
            raise _refuse(image.url, f"the registry states {reply.stated_digest[:80]}, and its answer has {found}")
        return reply.body

    def _fetch_token(self, challenge: str, image: RegistryReference) -> str:
        """Return the token that the registry's own service gives to anybody, who may then read the repository."""
        scheme, _, rest = challenge.partition(" ")
        parameters = dict(CHALLENGE_PARAMETER.findall(rest))
        realm = parameters.pop("realm", "")
        if scheme.lower() != "bearer" or urlsplit(realm).scheme != urlsplit(image.url).scheme:
            raise _refuse(image.url, "the registry wants an account")
        query = {"scope": f"repository:{image.name}:pull", **parameters}
        given = _decode_object(self.read_file(f"{realm}?{urlencode(query)}"), realm)
        token = given.get("token") or given.get("access_token")
        if not isinstance(token, str) or not re.fullmatch(r"[!-~]+", token):
            raise _refuse(realm, "it gives no token")
        return token

    def _request(self, url: str, headers: Mapping[str, str]) -> "_Reply":
        if urlsplit(url).scheme not in ("http", "https"):
            raise _refuse(url, "the address is no http or https URL")
        try:
            answer = self._client.send("GET", url, headers=headers, limit_bytes=BODY_LIMIT_BYTES)
        except NoReply as error:
            raise _refuse(url, f"the server cannot be reached ({error})") from error
        if answer.status == HTTPStatus.UNAUTHORIZED:
            raise _Unauthorized(answer.headers.get("WWW-Authenticate", ""))
        if answer.status != HTTPStatus.OK:
            raise _refuse(url, f"the server answered with status {answer.status}")
        if answer.is_cut:
            raise _refuse(url, f"it is larger than {BODY_LIMIT_BYTES >> 20} MiB")
        return _Reply(answer.body, answer.headers.get("Docker-Content-Digest", ""))


class _Reply(NamedTuple):
    body: bytes
    stated_digest: str


class _Unauthorized(MissingError):
    """A server that wants a token or an account; `challenge` says how to get it."""

    def __init__(self, challenge: str) -> None:
        super().__init__("AW-GET-14", "the server wants an account", hint=HINT)
        self.challenge = challenge


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _decode_object(data: bytes, url: str) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _refuse(url, "the answer is no JSON") from error
    if not isinstance(found, dict):
        raise _refuse(url, "the answer is no JSON object")
    return found


def _refuse(url: str, reason: str) -> MissingError:
    message = f"the digest cannot be read: {reason}"[:300]
    return MissingError("AW-GET-14", message, where=ErrorLocation(field=url[:200]), hint=HINT)
