"""The routes of a listener: how a request's method and path find one, and what they demand.

Design: only probes and documentation are open without a key, and they decode no body. A name is whatever stands for
`{}` in the pattern; nothing else of a path is decoded, so no encoded path reaches another route.
"""

import csv
import re
from collections.abc import Callable
from http import HTTPMethod
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from archwright.serving.admission.authorization import RouteRequirement
from archwright.serving.handlers.request_handler import HandlerContext, RequestHandler
from archwright.serving.http.errors import MESSAGES_PATH
from archwright.serving.http.http_response import JSON_CONTENT_TYPE

METERED_PERMISSION = "inference.invoke"  # of routes whose requests count against the rates
Prepare = Callable[[HandlerContext], RequestHandler]


class Route(NamedTuple):
    """`prepare` validates a request and makes its handler. Each {} in `path` is a name.

    `tail`: a name follows the path, which may contain "/". `images`: image data may exceed the limit of the body.
    `upload`: the body is a form with a file (`http.multipart`), which has a limit of its own.

    The rest is for the OpenAPI document. `summary`: what the route does; without it, the route is not in the document.
    `body` and `reply`: the records of the two bodies. `reply_type`: the content type of a reply. `errors`: statuses
    beside those of all routes of this kind. `by_model`: a model answers.
    """

    method: str
    path: str
    permission: str | None
    prepare: Prepare
    summary: str = ""
    body: type | None = None
    reply: type | None = None
    tail: bool = False
    images: bool = False
    upload: bool = False
    reply_type: str = JSON_CONTENT_TYPE
    errors: tuple[int, ...] = ()
    query: tuple[str, ...] = ()
    by_model: bool = False

    @property
    def template(self) -> str:
        return self.path + "{}" * self.tail


class RouteMatch(NamedTuple):
    """The route of a request, if any; what it demands, None if it is open; the decoded names in the path, with "/"."""

    route: Route | None
    requirement: RouteRequirement | None
    name: str


class RouteTable:
    """Finds the route of a request. Only names are decoded; the rest of a path is compared as it was sent."""

    def __init__(self, routes: tuple[Route, ...]) -> None:
        paths = ((route, re.escape(route.path).replace(r"\{\}", "([^/]+)")) for route in routes)
        self._patterns = [(route, re.compile(path + "(.+)" * route.tail)) for route, path in paths]
        fixed = [route for route in routes if not route.tail and "{}" not in route.path]
        self._exact = {(route.method, route.path): self._match(route.method, route.path) for route in fixed}

    def find(self, method: str, path: str) -> RouteMatch:
        return self._exact.get((method, path)) or self._match(method, path)

    def _match(self, method: str, path: str) -> RouteMatch:
        matches = [(route, match.groups()) for route, pattern in self._patterns if (match := pattern.fullmatch(path))]
        names = [unquote(name) for name in matches[0][1]] if matches else []
        if matches and not matches[0][0].tail and any("/" in name for name in names):
            matches = []  # a name with an encoded "/" is not a name
        route = next((route for route, _ in matches if route.method == method), None)
        name = "/".join(names)
        if route is not None and route.permission is None:
            return RouteMatch(route, None, name)
        permission, methods = route.permission if route else None, tuple(route.method for route, _ in matches)
        suggestion = "" if matches else self._suggest_path(path)
        action = _describe_action(method, path, route or (matches[0][0] if matches else None))
        images, upload = (route.images, route.upload) if route is not None else (False, False)
        return RouteMatch(route, RouteRequirement(permission, methods, suggestion, images, action, upload), name)

    def _suggest_path(self, path: str) -> str:
        """Return a hint for clients of another interface, or whose base URL lacks the version or has it twice."""
        tail = _SLASHES.sub("/", _VERSION_PREFIX.sub("", path, count=1)).removesuffix("/")
        suggested = f"/v1{tail}"
        if suggested == path or not any(pattern.fullmatch(suggested) for _, pattern in self._patterns):
            parents = (tail, *(tail[: end.start()] for end in re.finditer("[/:]", tail)))
            return next((f" {_OTHER_ENDPOINTS[path]}" for path in parents if path in _OTHER_ENDPOINTS), "")
        ends = "before /v1" if suggested.startswith(MESSAGES_PATH) else "in /v1"
        return f" Did you mean {suggested}? The client's base URL must end {ends}."


def _describe_action(method: str, path: str, route: Route | None) -> str:
    """Return the method and the route's path; of other paths the length, and the first segment if routes have it."""
    method = method if method in HTTPMethod.__members__ else "other method"
    if route is not None:
        return f"{method} {route.template}"
    segment = path.split("/")[1] if path.count("/") > 1 else ""
    return f"{method} {f'/{segment}/' if segment in _FIRST_SEGMENTS else '/'}... ({len(path)} characters)"


with Path(__file__).with_name("other_endpoints.csv").open(encoding="utf-8", newline="") as _file:
    # Each row names paths of other interfaces, after the version, and what to use instead of them and paths below.
    _OTHER_ENDPOINTS = {path: row["hint"] for row in csv.DictReader(_file) for path in row["paths"].split()}
_FIRST_SEGMENTS = ("v1", "admin", "metrics", "health", "healthz", "readyz")
_SLASHES = re.compile("//+")
_VERSION_PREFIX = re.compile("(?:/+v1(?=/))*")
