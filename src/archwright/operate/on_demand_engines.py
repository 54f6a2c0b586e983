"""Which engines of loaded models run: a request starts one, a long idle time or a full memory budget stops one.

`awake` engines take requests. The gateway holds back the requests for other engines and asks for a start
(`engine_start`). An engine stops only after the gateway confirmed that it released the engine, so no request is lost.
Design: an engine's own metrics tell if it is idle, because several processes of a gateway use it.
"""

from collections.abc import Collection, Mapping

from archwright.contract.plan import Bundle, ProcessSpec
from archwright.home import Home
from archwright.operate.readiness_probe import EngineActivity, read_activity
from archwright.serving.routing.engine_start import EngineStart, read_start_requests

POLL_S = 2.0
METRICS_TIMEOUT_S = 0.25  # a busy engine answers late, and other processes wait for their probe
# The requests that waited for an engine reach it within this time; it is neither stopped nor replaced earlier.
SETTLE_S = 1.0


class OnDemandEngines:
    """`awake`: engines in use, by key, which is also their name. `starting`: deadlines of the engines that start.

    `failures`: why the last start failed, until a rollout begins. `used_at`: when an engine was last seen in use.
    """

    def __init__(self, bundle: Bundle, home: Home) -> None:
        self.awake: set[str] = set()
        self.starting: dict[str, float] = {}
        self.failures: dict[str, str] = {}
        self.used_at: dict[str, float] = {}
        self.limit_bytes = bundle.model_memory_bytes
        self._idle_s = bundle.model_idle_s
        self._home = home
        self._since: dict[str, float] = {}
        self._activity: dict[str, EngineActivity | None] = {}
        self._next_poll = 0.0

    def forget_requests(self) -> None:
        """Remove the requests of an earlier gateway."""
        for left in self._home.start_requests.iterdir():
            left.unlink()

    def read_requests(self, known: Collection[str]) -> set[str]:
        """Return the engines that the gateway waits for. Requests for others have no effect any more."""
        asked = read_start_requests(self._home)
        for key in asked:
            if key not in known or key in self.awake:
                EngineStart(self._home, key).end()
        return asked & set(known) - self.awake

    def end_start(self, key: str, now: float, failure: str = "") -> None:
        """Record that an engine is ready, or why it did not start."""
        self.starting.pop(key, None)
        EngineStart(self._home, key).end(failed=bool(failure))
        if failure:
            self.failures[key] = failure
        else:
            self.awake.add(key)
            self._since[key] = self.used_at[key] = now
            self._activity[key] = EngineActivity(0, 0.0)

    def is_settling(self, key: str, now: float) -> bool:
        return key in self.starting or (key in self.awake and now < self._since[key] + SETTLE_S)

    def observe(self, specs: Mapping[str, ProcessSpec], now: float) -> bool:
        """Read the metrics of the engines every POLL_S; return True if any was in use."""
        if now < self._next_poll:
            return False
        self._next_poll = now + POLL_S
        return any([self._read_use(key, spec, now) for key, spec in specs.items() if key in self.awake])

    def _read_use(self, key: str, spec: ProcessSpec, now: float) -> bool:
        """An engine that does not answer is busy."""
        found, before = read_activity(spec, self._home, METRICS_TIMEOUT_S), self._activity[key]
        used = found is None or found.running > 0 or before is None or found.served != before.served
        self._activity[key] = found
        if used:
            self.used_at[key] = now
        return used

    def find_idle(self, now: float) -> list[str]:
        """Return the engines that were idle for longer than the setting."""
        if not self._idle_s:
            return []
        return [key for key in self.awake if self._is_idle(key, now) and now - self.used_at[key] > self._idle_s]

    def choose_victims(self, need: float, specs: Mapping[str, ProcessSpec], now: float) -> list[str] | None:
        """Return the idle engines, least recently used first, whose memory covers `need`.

        Empty if engines that just started may become idle; None if too much memory is in use by running requests.
        """
        chosen, freed, later = [], 0.0, 0.0
        for key in sorted(self.awake & specs.keys(), key=lambda one: self.used_at[one]):
            if freed < need and self._is_idle(key, now):
                self._read_use(key, specs[key], now)  # a request may have come since
            if freed < need and self._is_idle(key, now):
                chosen.append(key)
                freed += specs[key].memory_bytes
            elif self.is_settling(key, now):
                later += specs[key].memory_bytes
        if freed >= need:
            return chosen
        return [] if freed + later >= need else None

    def _is_idle(self, key: str, now: float) -> bool:
        found = self._activity[key]
        return found is not None and not found.running and not self.is_settling(key, now)
