"""The report of an engine's library on itself, and the measured steps of this engine on this machine."""

from archwright.contract.estimate import Estimate
from archwright.contract.evidence import Verdict
from archwright.contract.record import Record


class EngineReport(Record):
    """The build of an engine and the processor, as the engine's own library reports both.

    `features`: the processor features that the build uses, in its own words; `isa`: the catalog's name of the widest.
    `processor`: vendor, family-model-stepping and product name.
    """

    engine: str
    build: str
    features: tuple[str, ...]
    isa: str
    processor: str


class StepTime(Record):
    """The time of one engine step, in seconds.

    The step reads a whole prompt of `prompt_tokens`, or it writes one token for each of `answering` requests that have
    `context_tokens` each. `step_s` is the time that the busiest thread of the engine computed: the time of a quiet
    machine, since the turns of other programs do not count.
    """

    prompt_tokens: int = 0
    answering: int = 0
    context_tokens: int = 0
    step_s: float

    @property
    def kind(self) -> tuple[int, int, int]:
        return self.prompt_tokens, self.answering, self.context_tokens


class EngineMeasurement(Record):
    """The steps of one engine with one model on this machine.

    `parameters`: those of `model`. `model_sha256`: digest of the measured file; empty for random weights in the shape
    of `model`, with `layers` layers and `vocabulary` tokens. `slowdown`: wall time over processor time in the newest
    run. `spread`: the largest factor between the rounds of a step. `rounds` were run in `runs` starts of the engine.
    `startup_s`: process start to ready, with the file in the page cache. `steal_share`: the share of processor time
    that the hypervisor took meanwhile, None if unknown.
    """

    report: EngineReport
    model: str
    parameters: int
    quantisation: str
    model_sha256: str
    layers: int
    vocabulary: int
    threads: int
    steps: tuple[StepTime, ...]
    slowdown: float
    spread: float
    rounds: int
    runs: int
    startup_s: float
    measured_at: float
    steal_share: float | None = None

    @property
    def key(self) -> tuple[str, str, str, EngineReport, int]:
        """Return the fields that are equal if two measurements describe the same engine."""
        return self.model, self.quantisation, self.model_sha256, self.report, self.threads

    @property
    def is_of_file(self) -> bool:
        """True if the model's own file was measured, not random weights in its shape."""
        return bool(self.model_sha256)


class CalibratedFigure(Record):
    """A figure of `models calibrate`: `predicted` before the run, `calibrated` after it."""

    name: str
    predicted: Estimate
    measured: float
    verdict: Verdict
    calibrated: Estimate


class CalibrationReport(Record):
    """The result of `models calibrate`. `run`: what was measured; `file`: where the steps are stored."""

    model: str
    quantisation: str
    isa: str
    run: str
    figures: tuple[CalibratedFigure, ...]
    warnings: tuple[str, ...]
    file: str
