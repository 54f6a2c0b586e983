"""Client for instant queries of a Prometheus server (`/api/v1/query`)."""

import base64
import math
import urllib.parse
from http import HTTPStatus
from typing import Any

import msgspec

from archwright.errors import ErrorLocation, ReconcileError, UsageError
from archwright.http_client.blocking_client import BlockingClient, NoReply

RESPONSE_LIMIT_BYTES = 4 * 2**20
TIMEOUT_S = 10.0
# Statuses whose body is the JSON of a Prometheus server.
READABLE_STATUSES = (HTTPStatus.OK, HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY)


class _QueryData(msgspec.Struct):
    resultType: str
    result: list[Any]


class _QueryResponse(msgspec.Struct):
    status: str
    data: _QueryData | None = None
    error: str = ""


class PrometheusClient:
    """Client of the server at `url`, with the bearer token `token`.

    `url`: "http://host:9090", with path prefix and user:password@ if the server needs them.
    """

    def __init__(self, url: str, token: str | None = None, timeout_s: float = TIMEOUT_S) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            message = "not the URL of a Prometheus server"
            where = ErrorLocation(field=url[:80])
            hint = "use a URL like http://HOST:9090"
            raise UsageError("AW-USE-35", message, where=where, hint=hint)

        host = parts.netloc.rpartition("@")[2]
        path = parts.path.rstrip("/")
        self.url = f"{parts.scheme}://{host}{path}"
        self._headers = {"Accept": "application/json"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        elif parts.username is not None:
            user = urllib.parse.unquote(parts.username)
            password = urllib.parse.unquote(parts.password or "")
            credentials = base64.b64encode(f"{user}:{password}".encode())
            self._headers["Authorization"] = "Basic " + credentials.decode()
        self._client = BlockingClient(timeout_s)

    def query_instant(self, promql: str, at: float | None = None) -> float | None:
        """Return the number that `promql` yields now, or at epoch second `at`.

        None for an empty result, NaN or Inf. Raises ReconcileError: AW-REC-01 not reachable,
        AW-REC-02 query refused or unexpected response.
        """
        fields = {"query": promql}
        if at is not None:
            fields["time"] = repr(at)
        data = self._fetch(fields)

        kind = data.resultType
        if kind == "scalar":
            return self._parse_value(data.result)
        if kind != "vector":
            raise self._query_error(f"the query yields a {kind}, not a number")
        if not data.result:
            return None
        if len(data.result) > 1:
            raise self._query_error(f"the query yields {len(data.result)} series, not one")
        return self._parse_value(data.result[0].get("value"))

    def _fetch(self, fields: dict[str, str]) -> _QueryData:
        body = self._post("/api/v1/query", fields)
        try:
            response = msgspec.json.decode(body, type=_QueryResponse)
        except msgspec.DecodeError as error:
            reason = "the response is not the JSON of a Prometheus server"
            raise self._query_error(reason) from error
        if response.status != "success":
            raise self._query_error(response.error or "no reason given")
        if response.data is None:
            raise self._query_error("the response has no data")
        return response.data

    def _post(self, path: str, fields: dict[str, str]) -> bytes:
        """Return the response body, also that of 400 and 422, which states the reason."""
        data = urllib.parse.urlencode(fields).encode()
        try:
            reply = self._client.send(
                "POST",
                self.url + path,
                headers=self._headers,
                body=data,
                limit_bytes=RESPONSE_LIMIT_BYTES,
            )
        except NoReply as error:
            message = f"the Prometheus server cannot be reached: {error}"
            where = ErrorLocation(self.url)
            hint = f"check the URL, and that the server responds: curl {self.url}/-/ready"
            raise ReconcileError("AW-REC-01", message, where=where, hint=hint) from error
        if reply.status not in READABLE_STATUSES:
            raise self._query_error(f"HTTP {reply.status}")
        return reply.body

    def _parse_value(self, pair: object) -> float | None:
        """Return the value of a [time, "value"] pair, None if it is not finite."""
        try:
            value = float(pair[1])  # type: ignore[index]
        except (TypeError, ValueError, IndexError, KeyError) as error:
            raise self._query_error("the response contains no number") from error
        return value if math.isfinite(value) else None

    def _query_error(self, reason: str) -> ReconcileError:
        message = f"the query of the Prometheus server failed: {reason}"
        where = ErrorLocation(self.url)
        hint = "check the URL, the token, and that this server scrapes the engine or the gateway"
        return ReconcileError("AW-REC-02", message, where=where, hint=hint)
