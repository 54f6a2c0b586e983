"""Features of the residual trees: shares of the step, load, and properties of model, device and engine.

Their order is part of the fitted table: after a change the table must be fitted again.
"""

import math
import re
from collections.abc import Sequence

from archwright.sizing.step_time.step_time_model import StepTimeInputs
from archwright.sizing.step_time.step_work import DeviceSpec, ShardedModel

FORMATS = ("bf16", "fp8", "fp4", "int4", "int8", "fp32", "q4", "q5", "q6", "q8", "nf4")
LOADS = ("closed", "burst", "open", "single", "bare", "static", "offline")
_VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?")
_LAYER_OVERHEAD_S = 5e-5
_MAX_OVERCOMMIT = 8.0


def parse_version(engine: str) -> float:
    """Return 0.8.1 as 801; -1 if the text states no version."""
    found = _VERSION.search(engine)
    if found is None:
        return -1.0
    first, second, third = (int(part or 0) for part in found.groups())
    return first * 10000.0 + second * 100.0 + third


def extract_features(
    case: StepTimeInputs, worker: ShardedModel, device: DeviceSpec, engine: str, families: Sequence[str]
) -> list[float]:
    """Return the features of a case; `engine` is the stated text, `families` the engine families in the fit's order."""
    shape, layout = worker.shape, worker.layout
    memory = max(case.memory_s, 1e-9)
    family = families.index(case.engine) if case.engine in families else -1
    return [
        math.log(memory / max(case.compute_s, 1e-12)),
        math.log(max(case.requests, 1.0)),
        math.log(max(case.requests / case.answer * case.read_s, 1e-12) / memory),
        math.log(case.layers * _LAYER_OVERHEAD_S / memory),
        math.log2(case.tp),
        float(case.ep > 1),
        math.log(case.dp),
        math.log(max(case.prompt, 1.0)),
        math.log(case.answer),
        math.log(min(max(case.sent / case.held, 1e-4), _MAX_OVERCOMMIT)),
        float(family),
        case.cache_share,
        math.log(max(case.sent * case.dp, 1e-3)),
        math.log(max(case.prefill_ranks, 1)),
        float(case.sparse),
        float(FORMATS.index(case.format)),
        math.log(device.bandwidth / 1e12),
        math.log(shape.active / 1e9),
        math.log(shape.parameters / 1e9),
        math.log(case.layers),
        float("mla" in case.attention),
        parse_version(engine),
        math.log(case.ranks),
        math.log(layout.total),
        float(layout.prefill.tp if layout.prefill is not None else 0),
        float(LOADS.index(case.load)),
    ]
