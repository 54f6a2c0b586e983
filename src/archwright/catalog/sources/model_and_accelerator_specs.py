"""Scores and architectures of models in JSON, and YAML data sheets of accelerators."""

import json
from pathlib import PurePath

from archwright.catalog.sources.row_reader import read_rows, select_rows
from archwright.catalog.sources.source_records import (
    AcceleratorSpec,
    BenchmarkScore,
    CheckpointArchitecture,
    FileContext,
    SourceFacts,
)

# A model that reads images or sound keeps its decoder one level down.
DECODERS = ("text_config", "language_config", "llm_config")


def read_benchmark_scores(data: bytes, _file: FileContext) -> SourceFacts:
    """Read the reported scores of one model; the newest update dates the file."""
    rows = list(read_rows("benchmark-scores", data))
    as_of = max((row.pop("updated_at")[:10] for row in rows), default="")
    return SourceFacts(as_of=as_of, scores=tuple(BenchmarkScore(**row) for row in rows))


def read_checkpoint_config(data: bytes, file: FileContext) -> SourceFacts:
    """Read a checkpoint's `config.json`; its folder or file names the model. Other objects give no facts."""
    # Real files contain numbers such as Infinity, which strict readers refuse.
    config = json.loads(data)
    if not isinstance(config, dict):
        raise ValueError("the file is not a JSON object")
    config = next((config[name] for name in DECODERS if isinstance(config.get(name), dict)), config)
    (row,) = select_rows("checkpoint-config", config)
    fields = {name: count for name, count in row.items() if count is not None}
    if config.get("use_sliding_window") is False:
        fields.pop("sliding_window", None)
    if not {"layers", "hidden", "heads"} <= fields.keys():
        return SourceFacts()
    fields.setdefault("kv_heads", fields["heads"])
    if "kv_lora_rank" not in fields:
        # Heads of latent attention have several widths, so hidden / heads is not their width.
        fields.setdefault("head_dim", fields["hidden"] // fields["heads"])
    if fields.get("experts") and "ffn" in fields:
        fields.setdefault("expert_ffn", fields["ffn"])
    path = PurePath(file.name)
    name = path.parent.name if path.name == "config.json" else path.name.removesuffix("_config.json")
    # `OWNER--MODEL` is a common form of the name.
    return SourceFacts(architectures=(CheckpointArchitecture(name.rpartition("--")[2], fields),))


def read_accelerator_sheet(data: bytes, file: FileContext) -> SourceFacts:
    """Read the YAML sheet of one accelerator, named by its file: memory, dense rates, links, watts."""
    (row,) = read_rows("device-sheet", data)
    (rates,) = select_rows("device-sheet.flops", row.pop("gpu"))
    row |= {"memory_bytes": round(row["memory_bytes"]), "flops": {dtype: rate for dtype, rate in rates.items() if rate}}
    device = AcceleratorSpec(name=PurePath(file.name).stem.replace("_", " "), **row)
    if not device.memory_bytes or not device.bandwidth_bytes_per_s or not device.flops:
        raise ValueError("memory, bandwidth or rates are missing")
    return SourceFacts(devices=(device,))
