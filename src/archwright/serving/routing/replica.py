"""One engine of a pool: its identity, its running work, and whether it may get requests.

Each engine has its own circuit breaker. An engine that hangs fails no request before a deadline. So an engine is also
avoided, except for occasional probes, if it responded to none of MIN_SILENT_REQUESTS requests within the pool's silence
limit. If no engine is trusted, all healthy engines are used.
"""

from __future__ import annotations

import math
from typing import Any
from urllib.parse import urlsplit

import msgspec

from archwright.engines.special_tokens import SpecialTokens
from archwright.http_client.client import EngineClient
from archwright.policy.admission import Priority
from archwright.policy.circuit_breaker import AttemptOutcome, CircuitBreaker
from archwright.policy.routing import ReplicaLoad, hash_replica_name
from archwright.serving.providers import create_provider
from archwright.serving.settings.config import EnginePoolSpec

MIN_SILENT_REQUESTS = 3


class SlotRequest(msgspec.Struct, frozen=True, gc=False):
    """A request for a slot. `tokens`: upper bound of its work; `plain`: run without the adapter.

    `begin_by`: deadline for the slot (monotonic clock). `prefix`: hash of the prompt's beginning, for cache affinity.
    `but`: the replica that just failed the request, used only if no other replica can run it."""

    tokens: int
    tenant: str = ""
    plain: bool = False
    priority: Priority = "normal"
    begin_by: float = math.inf
    prefix: int | None = None
    but: Replica | None = None


class Replica:
    """One engine at one address with one model version. `tuned`: it has an adapter for the plan's model.

    `plain`: its running requests run without the adapter. `broke`: it disconnected and was not checked since.
    `key_refused`: it refused its key, which was not read since. `context_tokens`: as it states, 0 if unknown.
    `inspect_at`: when it is asked for its models and context again. `problem`: a fault of its configuration, for the
    operator. `is_confirmed`: it has replied since. `special`: the tokens that no text of a request may become."""

    def __init__(
        self, client: EngineClient, spec: EnginePoolSpec, address: str, special: SpecialTokens | None = None
    ) -> None:
        self.client = client
        self.engine = spec.engine
        self.takes_cache_salt = spec.takes_cache_salt
        self.address = address
        self._special = special
        self.provider = create_provider(spec)
        self.seed = hash_replica_name(address)
        self.slots = spec.slots
        self.version = spec.serves
        self.tuned = spec.adapter
        self.strict = spec.strict
        self.identity = replica_identity(spec, address)
        self.prices, self.stops_when_left = spec.prices, spec.stops_when_left
        self.plain = False
        self.running = 0
        self.work_tokens = 0
        self.healthy = self.broke = self.key_refused = False
        self.breaker = CircuitBreaker()
        self.context_tokens = 0
        self.inspect_at = 0.0
        self.problem = self._listed = ""
        self.is_confirmed = False
        self._outstanding = 0  # requests sent and not ended
        self._unanswered = 0  # requests sent since its last response
        self._silent_s, self._silent_since = 0.0, 0.0  # earlier silence in s, start of the current silence
        self._hangs = False  # the breaker is open because the engine was silent

    def break_special_tokens(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return the body with special tokens of the model as text, if this engine does not do that itself."""
        return body if self._special is None else self._special.break_body(body)

    def is_trusted(self, now: float, silence_limit_s: float) -> bool:
        """True if the circuit breaker and recent responses allow another request."""
        if self._unanswered >= MIN_SILENT_REQUESTS:
            silent_s = self._silent_s + (now - self._silent_since if self._outstanding else 0.0)
            if silent_s > silence_limit_s:
                self._unanswered, self._hangs = 0, True
                self.breaker.trip(now)
        return self.breaker.allows(now)

    def record_sent(self, now: float) -> None:
        """Record a sent request. `record_end` must follow, and `record_response` if a reply begins."""
        if not self._unanswered:
            self._silent_s, self._silent_since = 0.0, now
        elif not self._outstanding:
            self._silent_since = now
        self._outstanding += 1
        self._unanswered += 1
        if self.breaker.state != "closed":
            self.breaker.record_start(now)

    def record_response(self) -> None:
        self._unanswered = 0
        if self._hangs:
            self._hangs = False
            self.breaker.reset()

    def record_end(self, outcome: AttemptOutcome, now: float, since: float = math.inf) -> None:
        """Record the end of the request sent at `since`."""
        self._outstanding -= 1
        if outcome in ("ok", "failed"):
            self.record_response()  # the engine responded
        elif not self._outstanding:
            self._silent_s += now - self._silent_since
        self.breaker.record_end(outcome, now, since)

    def set_listed_problem(self, problem: str) -> None:
        """Set what its list of models shows. A reply disproves it, and a refused request counts more."""
        if not self.is_confirmed and self.problem in ("", self._listed):
            self.problem = problem
        self._listed = problem

    def learn_context(self, tokens: int) -> bool:
        """Set the context that the engine states; 0: it states none. Return True if that is new."""
        before, self.context_tokens = self.context_tokens, tokens or self.context_tokens
        return before != self.context_tokens

    @property
    def name(self) -> str:
        """Host and port of the address, or the name of a socket."""
        return urlsplit(self.address).netloc or self.address

    def is_open_to(self, plain: bool) -> bool:
        return self.healthy and (not self.tuned or not self.running or self.plain == plain)

    def load(self, eligible: bool, plain: bool) -> ReplicaLoad:
        """Return the load for a request with or without (`plain`) the adapter; `eligible`: it may run here."""
        healthy = eligible and self.is_open_to(plain)
        return ReplicaLoad(running=self.running, slots=self.slots, work_tokens=self.work_tokens, healthy=healthy)

    def occupy(self, work: SlotRequest) -> None:
        if not self.running:
            self.plain = work.plain
        self.running += 1
        self.work_tokens += work.tokens


def replica_identity(spec: EnginePoolSpec, address: str) -> tuple[object, ...]:
    """Return the fields that identify an engine across tables.

    The pool is included, because two pools at one address have separate slots and prices."""
    request_format = spec.engine_model, spec.protocol, spec.tool_side, spec.strict, spec.engine
    upstream = spec.key, spec.key_header, spec.query, spec.exact_url
    return spec.name, address, spec.serves, spec.adapter, *upstream, *request_format
