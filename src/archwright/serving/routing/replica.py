"""One engine of a pool: what it is, what runs on it, and whether it may be asked.

Each engine has its own circuit breaker. A hanging engine fails no request before a deadline, so one that answered none
of MIN_SILENT_REQUESTS requests within the pool's silence limit is avoided too, but for a probe now and then. Breakers
only choose: if no engine is trusted, all healthy ones are used.
"""

from __future__ import annotations

import math

import msgspec

from archwright.http_client.client import EngineClient
from archwright.policy.admission import Priority
from archwright.policy.circuit_breaker import AttemptOutcome, CircuitBreaker
from archwright.policy.routing import ReplicaLoad, hash_replica_name
from archwright.serving.providers import create_provider
from archwright.serving.settings.config import EnginePoolSpec

MIN_SILENT_REQUESTS = 3


class SlotRequest(msgspec.Struct, frozen=True, gc=False):
    """The most `tokens` of work, and `plain`: without an adapter. The slot is needed by `begin_by` (monotonic clock);
    `prefix`: a hash of the prompt's beginning, for cache affinity; `but` just failed it and is the last choice."""

    tokens: int
    tenant: str = ""
    plain: bool = False
    priority: Priority = "normal"
    begin_by: float = math.inf
    prefix: int | None = None
    but: Replica | None = None


class Replica:
    """One engine at one address with one model version; `tuned`: an adapter over the plan's model. `plain`: its current
    requests run without the adapter. `broke`: it broke off a request and was not checked since."""

    def __init__(self, client: EngineClient, spec: EnginePoolSpec, address: str) -> None:
        self.client = client
        self.address = address
        self.provider = create_provider(spec)
        self.seed = hash_replica_name(address)
        self.slots = spec.slots
        self.version = spec.serves
        self.tuned = spec.adapter
        self.strict = spec.strict
        self.identity = replica_identity(spec, address)
        self.prices = spec.prices
        self.plain = False
        self.running = 0
        self.work_tokens = 0
        self.healthy = self.broke = False
        self.breaker = CircuitBreaker()
        self._asked = 0  # requests under way
        self._unanswered = 0  # requests since it last gave a sign of life
        self._silent_s, self._silent_since = 0.0, 0.0  # earlier silence, start of the current one
        self._hangs = False  # why the breaker is open

    def is_trusted(self, now: float, patience_s: float) -> bool:
        """True if its recent behaviour allows another request."""
        if self._unanswered >= MIN_SILENT_REQUESTS:
            silent_s = self._silent_s + (now - self._silent_since if self._asked else 0.0)
            if silent_s > patience_s:
                self._unanswered, self._hangs = 0, True
                self.breaker.trip(now)
        return self.breaker.allows(now)

    def record_sent(self, now: float) -> None:
        """A request is sent; `record_end` follows, and `record_response` if an answer begins."""
        if not self._unanswered:
            self._silent_s, self._silent_since = 0.0, now
        elif not self._asked:
            self._silent_since = now
        self._asked += 1
        self._unanswered += 1
        if self.breaker.state != "closed":
            self.breaker.record_start(now)

    def record_response(self) -> None:
        self._unanswered = 0
        if self._hangs:
            self._hangs = False
            self.breaker.reset()

    def record_end(self, outcome: AttemptOutcome, now: float, since: float = math.inf) -> None:
        """The request sent at `since` ended."""
        self._asked -= 1
        if outcome in ("ok", "failed"):
            self.record_response()  # it answered
        elif not self._asked:
            self._silent_s += now - self._silent_since
        self.breaker.record_end(outcome, now, since)

    def is_open_to(self, plain: bool) -> bool:
        return self.healthy and (not self.tuned or not self.running or self.plain == plain)

    def load(self, asked: bool, plain: bool) -> ReplicaLoad:
        """The load for a request that may use it (`asked`) and wants no adapter (`plain`) or one."""
        healthy = asked and self.is_open_to(plain)
        return ReplicaLoad(running=self.running, slots=self.slots, work_tokens=self.work_tokens, healthy=healthy)

    def occupy(self, work: SlotRequest) -> None:
        if not self.running:
            self.plain = work.plain
        self.running += 1
        self.work_tokens += work.tokens


def replica_identity(spec: EnginePoolSpec, address: str) -> tuple[object, ...]:
    """What makes an engine the same one in another table; two pools at one address have separate slots and prices."""
    asked = spec.engine_model, spec.protocol, spec.enforces_tools, spec.strict
    return spec.name, address, spec.serves, spec.adapter, spec.key, *asked
