"""Predict closed loops by the public kernel tables of AISimulate, for `archwright accuracy --against`.

    python bench/sizing/kernel_table_predictions.py ROWS.csv OUT.csv

It runs in an environment of its own, with the package aiconfigurator-core and without archwright: `make nightly` makes
the environment. OUT.csv has one line a row that the package can predict, in the columns of `accuracy --rows-out`. The
package holds the measured rows of one publisher (systems/silicon_sample.csv), so its errors on that publisher's rows
flatter it.
"""

from __future__ import annotations

import csv
import functools
import itertools
import logging
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiconfigurator_core import sdk
from aiconfigurator_core.sdk import common, config, models, perf_database
from aiconfigurator_core.sdk.backends import factory

ENGINES = ("trtllm", "sglang", "vllm")
# Formats of weights by the words of a row; "": the package's choice for the model.
WEIGHTS = {"fp8": "fp8", "fp4": "nvfp4", "int4": "int4_wo", "bf16": "bfloat16", "": ""}
# Formats of attention and of the cache, which rows do not state: the first that the tables have.
ATTENTION = (("bfloat16", "fp8"), ("fp8", "fp8"), ("bfloat16", "bfloat16"))
LAYOUT_WORD = re.compile(r"(MoE-TP|TP|PP|DP|EP)(\d+)")
# The package raises errors of many kinds where its tables lack a kernel.
FAULTS = (AssertionError, LookupError, RuntimeError, StopIteration, ValueError)
MOST_PROMPT_TOKENS = 8192
CLOSED_LOOP = "fixed_concurrency_agg"
CONFIGS = Path(sdk.__file__).parents[1] / "model_configs"
SYSTEMS = Path(sdk.__file__).parents[1] / "systems"


def reduce_name(name: str) -> str:
    bare = name.rsplit("/", 1)[-1].lower()
    return re.sub(r"meta-|-instruct|-fp8$|-nvfp4$|[^a-z0-9.]", "", bare)


@functools.cache
def list_model_paths() -> dict[str, str]:
    """Return the paths of the package's models by their reduced names; the first of several wins."""
    paths: dict[str, str] = {}
    for file in sorted(CONFIGS.glob("*_config.json")):
        path = file.name.removesuffix("_config.json").replace("--", "/", 1)
        if not path.endswith("_hf_quant"):
            paths.setdefault(reduce_name(path), path)
    return paths


def find_system(accelerator: str) -> str:
    """Return the package's system whose words the accelerator's name has; "" if none."""
    words = set(re.findall(r"[a-z0-9]+", accelerator.lower()))
    for file in sorted(SYSTEMS.glob("*.yaml"), key=lambda path: -len(path.stem)):
        if set(file.stem.split("_")) <= words:
            return file.stem
    return ""


@functools.cache
def load_tables(system: str, engine: str) -> Any:
    version = perf_database.get_latest_database_version(system, engine)
    return perf_database.get_database(system, engine, version)


def predict_row(cells: Mapping[str, str]) -> dict[str, float]:
    """Return TPOT and TTFT in ms and tokens/s by predicted column. Raises the error of the last format tried."""
    weights = WEIGHTS[cells["precision"].lower()]
    fault: Exception = ValueError("no format")
    for experts, (attention, cache) in itertools.product(dict.fromkeys((weights, "")), ATTENTION):
        formats = {
            "gemm_quant_mode": common.GEMMQuantMode[weights] if weights else None,
            "moe_quant_mode": common.MoEQuantMode[experts] if experts else None,
            "fmha_quant_mode": common.FMHAQuantMode[attention],
            "kvcache_quant_mode": common.KVCacheQuantMode[cache],
        }
        try:
            return predict_in_formats(cells, formats)
        except FAULTS as error:
            fault = error
    raise fault


def predict_in_formats(cells: Mapping[str, str], formats: Mapping[str, Any]) -> dict[str, float]:
    engine = next(name for name in ENGINES if name in cells["engine"].lower().replace("tensorrt-llm", "trtllm"))
    ranks = {name: int(number) for name, number in LAYOUT_WORD.findall(cells["parallelism"])}
    tensor = ranks["TP"]
    replicas = ranks.get("DP", 1)
    expert_ranks = ranks.get("EP", 1)
    model_config = config.ModelConfig(
        tp_size=tensor,
        pp_size=ranks.get("PP", 1),
        attention_dp_size=replicas,
        moe_ep_size=expert_ranks,
        moe_tp_size=tensor * replicas // expert_ranks,
        **formats,
    )
    tables = load_tables(find_system(cells["accelerator"]), engine)
    model = models.get_model(list_model_paths()[reduce_name(cells["model"])], model_config, engine)
    requests = max(round(float(cells["concurrency_or_batch"]) / replicas), 1)
    prompt = int(float(cells["input_len"]))
    load = config.RuntimeConfig(batch_size=requests, isl=prompt, osl=int(float(cells["output_len"])))
    chunk = min(max(prompt, 1), MOST_PROMPT_TOKENS)
    summary = factory.get_backend(engine).run_agg(model, tables, load, ctx_tokens=chunk)
    row = summary.get_summary_df().iloc[0]
    return {
        "pred_tpot_ms": float(row["tpot"]),
        "pred_ttft_ms": float(row["ttft"]),
        "pred_throughput_tok_s": float(row["tokens/s"]),
    }


def main() -> None:
    logging.disable(logging.WARNING)
    source, target = map(Path, sys.argv[1:3])
    with source.open(newline="") as opened, target.open("w", newline="") as written:
        writer = csv.DictWriter(written, ["row_id", "pred_tpot_ms", "pred_ttft_ms", "pred_throughput_tok_s"])
        writer.writeheader()
        for cells in csv.DictReader(opened):
            if not cells["scenario"].startswith(CLOSED_LOOP):
                continue
            try:
                predicted = predict_row(cells)
            except FAULTS as error:
                sys.stderr.write(f"{cells['row_id']}: {type(error).__name__}: {str(error)[:200]}\n")
                continue
            writer.writerow({"row_id": cells["row_id"], **predicted})
            written.flush()


if __name__ == "__main__":
    main()
