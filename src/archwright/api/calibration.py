"""`models calibrate`: measure an engine alone on this machine, and keep what it reached as the measured layer."""

import asyncio
import random
import statistics
import time
from datetime import UTC, datetime
from typing import Any

from archwright.api.local_prediction import RequestTraffic, choose_slots, find_model_file, read_machine
from archwright.catalog.layers.calibrations import Calibration, read_calibrations
from archwright.catalog.load import load_catalog
from archwright.contract.estimate import Estimate
from archwright.contract.evidence import Verdict, determine_verdict
from archwright.contract.plan import Artefact, MachineFacts
from archwright.contract.record import Record, replace
from archwright.engines.engine_config import EngineConfig
from archwright.engines.model_files import locate_model
from archwright.errors import EngineError, ErrorLocation
from archwright.home import Home, write_json
from archwright.http_client.client import EngineClient
from archwright.journal import report_step
from archwright.lifecycle import evaluation_engine
from archwright.operate.resource_usage import memory_bytes
from archwright.simulate.engine_figures import (
    EngineFigures,
    EngineRun,
    calibrate_efficiency,
    measure_spread,
    predict_engine_run,
    simulate_engine_run,
)
from archwright.simulate.local_engine import build_engine_settings
from archwright.simulate.serving_simulation import ServingSpec

# Slots for such prompts, as many as a plan would have.
PROMPT_TOKENS = 1024
# A run takes a minute at most: each of three questions is sized for PART_S by the prediction, and asked up to ROUNDS
# times while time is left.
RUN_S, PART_S, ROUNDS = 60.0, 3.0, 3
WIDE_SPREAD = 1.3
LEAST_RUN, LARGEST_RUN = EngineRun(16, 8), EngineRun(512, 64)
# Ids of a tokenizer below this are often control tokens.
FIRST_TOKEN = 1000


class CalibratedFigure(Record):
    """`predicted` before the run, `calibrated` after it."""

    name: str
    predicted: Estimate
    measured: float
    verdict: Verdict
    calibrated: Estimate


class CalibrationReport(Record):
    """`run`: the questions; `file`: where the shares are kept."""

    model: str
    quantisation: str
    isa: str
    run: str
    figures: tuple[CalibratedFigure, ...]
    warnings: tuple[str, ...]
    file: str


def calibrate_model(name: str, home: Home) -> CalibrationReport:
    """Probe, run the engine alone on a socket of its own, compare with the prediction, write the measured layer."""
    artefact = find_model_file(name, load_catalog(home))
    locate_model(artefact, home)
    machine = read_machine(home, artefact, fresh=True)
    spec = choose_slots(artefact, machine, load_catalog(home), RequestTraffic(0, 0.0, PROMPT_TOKENS, 2))
    run = _size_run(spec)
    predicted = predict_engine_run(spec, run)
    report_step(f"measuring {artefact.model} with {spec.slots} slots")
    rounds = _run_engine(home, spec, artefact, machine, run)
    measured = EngineFigures(*(statistics.median(values) for values in zip(*rounds, strict=True)))
    spread = max(measure_spread(list(values)) for values in list(zip(*rounds, strict=True))[:3])
    day = datetime.now(UTC).date().isoformat()
    row = replace(
        calibrate_efficiency(spec, run, measured, spread),
        source=f"calibrated on this machine with {artefact.name}, {len(rounds)} rounds",
        as_of=day,
        confidence="high",
    )
    made = Calibration(model=artefact.model, parameters=spec.model.parameters, row=row, measured_at=time.time())
    home.folder("measured")
    write_json(home.engine_calibrations, [made, *(one for one in read_calibrations(home) if one.key != made.key)])
    after = predict_engine_run(replace(spec, efficiency=row), run)
    return CalibrationReport(
        model=artefact.model,
        quantisation=artefact.quantisation,
        isa=machine.isa,
        run=f"a prompt of {run.prompt_tokens} tokens, answers of {run.answer_tokens} alone and {spec.slots} together",
        figures=tuple(
            CalibratedFigure(
                name=figure,
                predicted=predicted[figure],
                measured=value,
                verdict=determine_verdict(figure, predicted[figure], value),
                calibrated=band,
            )
            for (figure, band), value in zip(after.items(), measured, strict=True)
        ),
        warnings=_list_warnings(machine, spread),
        file=str(home.engine_calibrations),
    )


def _size_run(spec: ServingSpec) -> EngineRun:
    """Return a run whose three questions take PART_S each at the predicted speed."""
    found = simulate_engine_run(spec, LARGEST_RUN)
    slowest_token = max(found.token_together_s, found.token_alone_s)
    prompt = round(LARGEST_RUN.prompt_tokens * PART_S / found.prompt_s)
    answer = round(PART_S / slowest_token)
    return EngineRun(
        min(max(prompt, LEAST_RUN.prompt_tokens), LARGEST_RUN.prompt_tokens),
        min(max(answer, LEAST_RUN.answer_tokens), LARGEST_RUN.answer_tokens),
    )


def _run_engine(
    home: Home, spec: ServingSpec, artefact: Artefact, machine: MachineFacts, run: EngineRun
) -> list[EngineFigures]:
    """Return the figures of each round; start-up and memory are those of the one engine."""
    config = EngineConfig(
        engine=spec.engine.id,
        socket=evaluation_engine.socket_name(),
        alias=spec.model.id,
        slots=spec.slots,
        context_tokens=spec.context_tokens,
        default_max_tokens=run.answer_tokens,
        model_sha256=artefact.sha256,
        settings=build_engine_settings(spec, artefact, machine),
    )
    deadline_s = max(evaluation_engine.READY_WITHIN_S, 2 * predict_engine_run(spec, run)["startup_s"].high)
    with evaluation_engine.run_engine(home, config, deadline_s) as engine:
        speeds = asyncio.run(_ask_rounds(EngineClient(engine.address), spec, run))
        peak = float(memory_bytes([engine.pid]) or simulate_engine_run(spec, run).memory_bytes)
        return [EngineFigures(*speed, engine.startup_s, peak) for speed in speeds]


async def _ask_rounds(client: EngineClient, spec: ServingSpec, run: EngineRun) -> list[tuple[float, float, float]]:
    """Return (prompt, token alone, token together) in seconds per round, after a first question that warms up."""
    chance, begin, found = random.Random(1), time.monotonic(), list[tuple[float, float, float]]()

    async def ask(prompt_tokens: int, answer_tokens: int) -> dict[str, Any]:
        last = min(spec.model.vocabulary, 2 * FIRST_TOKEN) - 1
        body = {
            "prompt": [chance.randint(min(FIRST_TOKEN, last), last) for _ in range(prompt_tokens)],
            "n_predict": answer_tokens,
            "cache_prompt": False,
            "ignore_eos": True,
        }
        return await client.post("/completion", body)

    try:
        await ask(8, 2)
        while not found or (len(found) < ROUNDS and (time.monotonic() - begin) * (1 + 1 / len(found)) < RUN_S):
            prompt = _read_ms(await ask(run.prompt_tokens, 1), "prompt_ms", client)
            alone = _read_ms(await ask(1, run.answer_tokens), "predicted_per_token_ms", client)
            replies = await asyncio.gather(*(ask(1, run.answer_tokens) for _ in range(spec.slots)))
            together = statistics.mean(_read_ms(reply, "predicted_per_token_ms", client) for reply in replies)
            found.append((prompt, alone, together))
    finally:
        await client.close()
    return found


def _read_ms(reply: dict[str, Any], field: str, client: EngineClient) -> float:
    """Return a timing of the engine in seconds. Raises EngineError AW-ENG-03 for a reply without it."""
    timings = reply.get("timings")
    value = timings.get(field) if isinstance(timings, dict) else None
    if not isinstance(value, int | float) or value <= 0:
        hint = "install the supported engine: pip install --upgrade 'archwright[local]'"
        message = f"the engine's reply has no timing {field}"
        raise EngineError("AW-ENG-03", message, where=ErrorLocation(client.address), hint=hint)
    return value / 1e3


def _list_warnings(machine: MachineFacts, spread: float) -> tuple[str, ...]:
    found = []
    if machine.is_busy:
        found.append(f"other processes used {machine.busy_share:.0%} of the processor: repeat it on a quiet machine")
    if spread > WIDE_SPREAD:
        found.append(f"the rounds differ by a factor of {spread:.2f}, so the interval stays wide")
    return tuple(found)
