"""Select the pools for a request.

Design: the routes of a table are computed once. A route holds only pools that may process its data class.
"""

import asyncio
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any, NamedTuple, Protocol

from archwright.policy.circuit_breaker import RetryBudget
from archwright.policy.overflow import should_overflow
from archwright.policy.residency import (
    CLASSES,
    RESIDENCY_BOUND_CLASSES,
    STRICTNESS,
    DataClass,
    has_residency,
    strictest_class,
)
from archwright.policy.routing import hash_to_fraction, select_weighted_index
from archwright.serving.http.errors import ApiError, bad_request, service_unavailable
from archwright.serving.requests.request_validation import GenerationRequest
from archwright.serving.requests.tenant_work_queue import TenantWorkQueue
from archwright.serving.routing.pii_detection import DETECTABLE_CLASSES, detect_data_class
from archwright.serving.routing.pool import EnginePool
from archwright.serving.routing.replica import SlotRequest
from archwright.serving.settings.config import EndpointSpec, is_outside_residency

DATA_CLASS_HEADER = "x-archwright-data-class"
DATA_CLASS_HEADER_BYTES = DATA_CLASS_HEADER.encode()
PREFIX_CHARACTERS = 2_048  # of the beginning of a conversation, for cache affinity
SEARCH_CPU_S = 10.0  # of one text for personal data
SHADOW_FREE_SHARE = 0.5  # share of the slots that must be free, so that shadow traffic delays no other request


class RoutableRequest(Protocol):
    @property
    def endpoint(self) -> EndpointSpec: ...


class _EndpointRoute(NamedTuple):
    """The pools of an endpoint that may process a data class. `single`: the pool, if there is exactly one."""

    spec: EndpointSpec
    targets: tuple[EnginePool, ...]
    weights: tuple[float, ...]
    overflow: tuple[EnginePool, ...]
    fallback: tuple[EnginePool, ...]
    shadow: EnginePool | None
    single: tuple[EnginePool, ...]
    affine: bool


class Router:
    """The routes of one table of pools and endpoints. Breakers and the retry budget outlive the table."""

    def __init__(
        self,
        pools: Mapping[str, EnginePool],
        endpoints: Iterable[EndpointSpec],
        budget: RetryBudget,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._successor: Router | None = None
        self.budget = budget
        self.now = now
        self._routes: dict[tuple[str, str, str, DataClass], _EndpointRoute] = {}
        self._classes: dict[tuple[str, str, str], DataClass] = {}
        self._models: dict[tuple[str, str], str] = {}  # of an endpoint whose model changed since the request was read
        self._detecting: set[tuple[str, str, str]] = set()
        self._search = TenantWorkQueue(1)
        for spec in endpoints:
            name = (spec.kind, spec.model, spec.workload)
            self._models.setdefault((spec.kind, spec.workload), spec.model)
            self._classes[name] = spec.data_class or "internal"
            specs = [pools[pool].spec for pool in spec.pools]
            leaves = any(is_outside_residency(spec, pool, name) for pool in specs for name in DETECTABLE_CLASSES)
            if leaves if spec.detect is None else spec.detect:
                self._detecting.add(name)
            for data_class in CLASSES:
                self._routes[*name, data_class] = _build_route(spec, pools, data_class)

    def classify_request(self, spec: EndpointSpec, header: str | None, body: Any) -> DataClass:
        """Return the strictest of the endpoint's class, the caller's header and the detected class.

        Raises ApiError 400 for an unknown class, 503 if the endpoint was removed since the request was read."""
        found, searched = self._find_stated_class(spec, header)
        return strictest_class((found, detect_data_class(body) or found)) if searched else found

    async def classify_large_request(self, spec: EndpointSpec, header: str | None, body: Any, tenant: str) -> DataClass:
        """Return the class as `classify_request` does. A thread searches the text, one at a time per process.

        Tenants take turns. A text that takes longer than SEARCH_CPU_S counts as the strictest detectable class."""
        found, searched = self._find_stated_class(spec, header)
        if not searched:
            return found
        ended = threading.Event()  # also if the client disconnects
        try:
            async with self._search.hold_place(tenant):
                detected = await asyncio.to_thread(_search_text, body, ended)
        finally:
            ended.set()
        return strictest_class((found, detected or found))

    def _find_stated_class(self, spec: EndpointSpec, header: str | None) -> tuple[DataClass, bool]:
        """Return the stricter of the endpoint's class and the caller's, and whether the text must be searched."""
        name = self._find_name(spec)
        found = self._classes.get(name)
        if found is None:
            message = "this model was just removed from this gateway; GET /v1/models lists the models"
            raise service_unavailable(message, "model_unavailable")
        if header is not None:
            if header not in STRICTNESS:
                message = f"{DATA_CLASS_HEADER} must be one of {', '.join(CLASSES)}"
                raise bad_request(message, DATA_CLASS_HEADER, "invalid_value")
            found = strictest_class((found, header))
        return found, name in self._detecting and found not in RESIDENCY_BOUND_CLASSES

    def _find_name(self, spec: EndpointSpec) -> tuple[str, str, str]:
        """Return the name of the endpoint in this table, where an alias may mean another model by now."""
        name = (spec.kind, spec.model, spec.workload)
        if name in self._classes:
            return name
        return spec.kind, self._models.get((spec.kind, spec.workload), spec.model), spec.workload

    def select_pools(
        self, request: RoutableRequest, data_class: DataClass, request_id: str = ""
    ) -> tuple[EnginePool, ...]:
        """Return the pools to try, at least one. Raises ApiError 403 if no pool may process the data class."""
        spec = request.endpoint
        route = self._routes[*self._find_name(spec), data_class]
        return route.single or self._order_pools(route, data_class, request_id)

    def set_successor(self, router: "Router") -> None:
        """Name the router of the table that replaced this one."""
        self._successor = router

    def select_pools_now(
        self, request: RoutableRequest, data_class: DataClass, request_id: str
    ) -> tuple[EnginePool, ...]:
        """Select the pools of the newest table. Raises ApiError 503 if the endpoint was removed."""
        newest = self
        while newest._successor is not None:
            newest = newest._successor
        newest._find_stated_class(request.endpoint, None)
        return newest.select_pools(request, data_class, request_id)

    def select_shadow(self, request: RoutableRequest, data_class: DataClass, request_id: str) -> EnginePool | None:
        """Return the shadow pool, if the request is sampled and the pool is usable and half idle."""
        spec = request.endpoint
        if not spec.shadow:
            return None
        pool = self._routes[*self._find_name(spec), data_class].shadow
        if pool is None or hash_to_fraction(request_id, "shadow") >= spec.shadow_share:
            return None
        free = pool.in_flight < max(1, SHADOW_FREE_SHARE * pool.slots)
        return pool if free and pool.is_usable(self.now()) else None

    def build_slot_request(
        self, request: GenerationRequest, tenant: str, data_class: DataClass, until: float
    ) -> SlotRequest:
        """Build the slot request. Its deadline is `until`, or earlier if the endpoint limits the wait."""
        spec = request.endpoint
        route = self._routes[*self._find_name(spec), data_class]
        begin_by = until if spec.wait_s is None else min(until, self.now() + spec.wait_s)
        prefix = hash_prefix(request.body, tenant) if route.affine else None
        return SlotRequest(request.work_tokens, tenant, request.plain, spec.priority, begin_by, prefix)

    def _order_pools(self, route: _EndpointRoute, data_class: DataClass, request_id: str) -> tuple[EnginePool, ...]:
        spec, targets, now = route.spec, list(route.targets), self.now()
        if len(targets) > 1 and any(route.weights):
            first = targets.pop(select_weighted_index(route.weights, hash_to_fraction(request_id, "split")))
            targets.insert(0, first)
        ours = [pool for pool in targets if pool.is_usable(now)]
        elsewhere = [pool for pool in route.overflow if pool.is_usable(now)]
        if ours and elsewhere:
            waits = [min(pool.estimated_wait_s(spec.priority) for pool in pools) for pools in (ours, elsewhere)]
            if should_overflow(waits[0], spec.overflow_wait_s, other_wait_s=waits[1]):
                ours, elsewhere = elsewhere, ours
        usable = [*ours, *elsewhere, *(pool for pool in route.fallback if pool.is_usable(now))]
        # Without a usable pool the first pool gets the request: breakers only order the pools.
        selected = usable or [*targets, *route.overflow, *route.fallback][:1]
        if not selected:
            message = f"No engine of this model may process {data_class} data."
            if not has_residency(data_class, spec.residency_policy):
                message += (
                    f" No residency is configured for {data_class} data on this endpoint. Add {data_class} to the "
                    f"workload's data in needs.yaml, or set residency_of.{data_class} of the gateway's endpoint."
                )
            raise ApiError(HTTPStatus.FORBIDDEN, message, "data_class_not_served")
        return tuple(selected)


def _search_text(body: Any, ended: threading.Event) -> DataClass | None:
    """Search the text in this thread until `ended`, for at most SEARCH_CPU_S of its processor time."""
    limit_s = time.thread_time() + SEARCH_CPU_S
    detected = detect_data_class(body, lambda: ended.is_set() or time.thread_time() > limit_s)
    return strictest_class(DETECTABLE_CLASSES) if time.thread_time() > limit_s else detected


def hash_prefix(body: Mapping[str, Any], tenant: str = "") -> int:
    """Hash the tenant and what all turns of a conversation share: up to the first user message, or the prompt.

    Engines keep the prompts of tenants apart, so equal prompts of two tenants gain nothing from one replica."""
    pieces: list[str] = []
    for message in body.get("messages", ()):
        pieces.append(str(message["content"]))
        if message["role"] == "user":
            break
    text = "\n".join(pieces) or str(body.get("prompt", "")[:PREFIX_CHARACTERS])
    return zlib.crc32(text[:PREFIX_CHARACTERS].encode("utf-8", "surrogatepass"), zlib.crc32(tenant.encode()))


def _build_route(spec: EndpointSpec, pools: Mapping[str, EnginePool], data_class: DataClass) -> _EndpointRoute:
    def inside(names: Iterable[str]) -> tuple[EnginePool, ...]:
        return tuple(pools[name] for name in names if not is_outside_residency(spec, pools[name].spec, data_class))

    targets = inside(target.pool for target in spec.targets)
    weights = {target.pool: target.weight for target in spec.targets}
    overflow, fallback = inside(spec.overflow), inside(spec.fallback)
    all_pools = (*targets, *overflow, *fallback)
    shadow = inside([spec.shadow]) if spec.shadow else ()
    return _EndpointRoute(
        spec=spec,
        targets=targets,
        weights=tuple(weights[pool.name] for pool in targets),
        overflow=overflow,
        fallback=fallback,
        shadow=shadow[0] if shadow else None,
        single=all_pools if len(all_pools) == 1 else (),
        affine=spec.kind == "text" and any(len(pool.replicas) > 1 for pool in all_pools),
    )
