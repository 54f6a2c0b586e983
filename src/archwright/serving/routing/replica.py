"""One engine of a pool: what it is, what runs on it, and whether it may be asked.

Decides that each engine has a breaker of its own, so that one that fails neither gets requests nor takes the others of
its pool with it. One that hangs fails nobody until a deadline is over: an engine that was sent SILENT_LEAST requests
and has answered none of them, while some waited for it longer than the pool takes to begin an answer, gets no more
while another is there, but one now and then to see. A breaker chooses and does not refuse: where none is trusted all
that are healthy are.
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
    """What a request may ask of a replica at most, and whether it wants the model without an adapter. It must have a
    slot at `begin_by` (monotonic clock); `prefix` is a hash of its beginning, where that is worth staying with; `but`
    has just failed it, and is asked again only where no other is."""

    tokens: int
    tenant: str = ""
    plain: bool = False
    priority: Priority = "normal"
    begin_by: float = math.inf
    prefix: int | None = None
    but: Replica | None = None


class Replica:
    """One engine at one address, which serves one model version; `tuned`: an adapter over the plan's model. `plain`:
    what runs there now was asked without the adapter. `broke`: it broke a request off, and has not been seen since."""

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
        self._silent_s, self._silent_since = 0.0, 0.0  # before the time since which some wait for it
        self._hangs = False  # why the breaker is open

    def is_trusted(self, now: float, patience_s: float) -> bool:
        """Whether it may be asked as far as what it did lately goes."""
        if self._unanswered >= MIN_SILENT_REQUESTS:
            silent_s = self._silent_s + (now - self._silent_since if self._asked else 0.0)
            if silent_s > patience_s:
                self._unanswered, self._hangs = 0, True
                self.breaker.trip(now)
        return self.breaker.allows(now)

    def record_sent(self, now: float) -> None:
        """It is asked; `ended` follows, and `heard` where an answer begins."""
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
        """What was sent at `since` is over."""
        self._asked -= 1
        if outcome in ("ok", "failed"):
            self.record_response()  # it speaks, well or not
        elif not self._asked:
            self._silent_s += now - self._silent_since
        self.breaker.record_end(outcome, now, since)

    def is_open_to(self, plain: bool) -> bool:
        return self.healthy and (not self.tuned or not self.running or self.plain == plain)

    def load(self, asked: bool, plain: bool) -> ReplicaLoad:
        """As a request sees it that wants the model without (`plain`) or with its adapter, and may ask it or not."""
        return ReplicaLoad(
            running=self.running,
            slots=self.slots,
            work_tokens=self.work_tokens,
            healthy=asked and self.is_open_to(plain),
        )

    def occupy(self, work: SlotRequest) -> None:
        if not self.running:
            self.plain = work.plain
        self.running += 1
        self.work_tokens += work.tokens


def replica_identity(spec: EnginePoolSpec, address: str) -> tuple[object, ...]:
    """What makes an engine the same one in another table: where it is, what it holds and how it is asked. Two pools at
    one address have each its own: what one of them runs is not free for the other, nor at its price."""
    asked = spec.engine_model, spec.protocol, spec.enforces_tools, spec.strict
    return spec.name, address, spec.serves, spec.adapter, spec.key, *asked
