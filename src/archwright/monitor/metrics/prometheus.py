"""Ask a Prometheus one number over its HTTP interface (`/api/v1/query`)."""

from __future__ import annotations

import base64
import http.client
import math
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

import msgspec

from archwright.errors import ErrorLocation, ReconcileError, UsageError

RESPONSE_LIMIT_BYTES = 4 * 2**20
TIMEOUT_S = 10.0


class _RedirectRefusal(urllib.request.HTTPRedirectHandler):
    """A redirect is refused: it would carry the token to a host nobody named."""

    def redirect_request(self, *_: Any) -> None:
        return None


class _QueryData(msgspec.Struct):
    resultType: str
    result: list[Any]


class _QueryResponse(msgspec.Struct):
    status: str
    data: _QueryData | None = None
    error: str = ""


class PrometheusClient:
    """`url` is its root ("http://host:9090", a path prefix and user:password@ are kept); `token` goes as Bearer."""

    def __init__(self, url: str, token: str | None = None, timeout_s: float = TIMEOUT_S) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            message = "not the URL of a Prometheus"
            raise UsageError("AW-USE-35", message, where=ErrorLocation(None, None, url[:80]), hint="http://HOST:9090")
        host = parts.netloc.rpartition("@")[2]
        self.url = f"{parts.scheme}://{host}{parts.path.rstrip('/')}"
        self._timeout_s = timeout_s
        self._headers = {"Accept": "application/json"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        elif parts.username is not None:
            pair = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
            self._headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
        self._opener = urllib.request.build_opener(_RedirectRefusal, urllib.request.ProxyHandler({}))

    def query_instant(self, promql: str, at: float | None = None) -> float | None:
        """The one number `promql` yields (now, or at that epoch second); None when there is none: empty, NaN, Inf.

        Raises ReconcileError: AW-REC-01 cannot be reached, AW-REC-02 refused the query or answered otherwise."""
        fields = {"query": promql} if at is None else {"query": promql, "time": repr(at)}
        answer = self._decode_response(self._post("/api/v1/query", fields))
        if answer.data is None:
            raise self._query_error("it answered without data")
        result, kind = answer.data.result, answer.data.resultType
        if kind == "scalar":
            return self._parse_value(result)
        if kind != "vector":
            raise self._query_error(f"the query yields a {kind}, not a number")
        if len(result) > 1:
            raise self._query_error(f"the query yields {len(result)} series, not one")
        return self._parse_value(result[0].get("value")) if result else None

    def _post(self, path: str, fields: dict[str, str]) -> bytes:
        """The body of the answer; a 4xx or 5xx with a body is an answer too, since it says why."""
        data = urllib.parse.urlencode(fields).encode()
        request = urllib.request.Request(self.url + path, data=data, headers=self._headers)
        try:
            with self._opener.open(request, timeout=self._timeout_s) as reply:
                body: bytes = reply.read(RESPONSE_LIMIT_BYTES)
                return body
        except urllib.error.HTTPError as error:
            with error:
                if error.code in (400, 422):
                    return error.read(RESPONSE_LIMIT_BYTES)
                raise self._query_error(f"HTTP {error.code} {error.reason}") from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            hint = f"check the URL and that it answers: curl {self.url}/-/ready"
            message = f"the Prometheus cannot be reached: {str(reason) or type(error).__name__}"
            raise ReconcileError("AW-REC-01", message, where=ErrorLocation(self.url), hint=hint) from error

    def _decode_response(self, body: bytes) -> _QueryResponse:
        try:
            answer = msgspec.json.decode(body, type=_QueryResponse)
        except msgspec.DecodeError as error:
            raise self._query_error("the answer is not a Prometheus's JSON") from error
        if answer.status != "success":
            raise self._query_error(answer.error or "no reason given")
        return answer

    def _parse_value(self, pair: object) -> float | None:
        """The value of a [time, "value"] pair."""
        try:
            value = float(pair[1])  # type: ignore[index]
        except (TypeError, ValueError, IndexError, KeyError) as error:
            raise self._query_error("the answer holds no number") from error
        return value if math.isfinite(value) else None

    def _query_error(self, reason: str) -> ReconcileError:
        hint = "check the URL, the token, and that this Prometheus scrapes the engine or the gateway"
        message = f"the Prometheus refused: {reason}"
        return ReconcileError("AW-REC-02", message, where=ErrorLocation(self.url), hint=hint)
