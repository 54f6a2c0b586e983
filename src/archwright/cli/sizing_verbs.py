"""The verbs of sizing."""

from __future__ import annotations

from archwright.cli.verb_spec import Arg, Verb, require_positional

ON_DEVICES = Arg("on", "count and accelerator, such as 4xNAME", required=True, metavar="4xNAME")
MACHINE = require_positional("on", "count and accelerator, or vCPUs, such as 1xNAME or '16 vCPU'", metavar="MACHINE")
LATENCY = Arg("latency_p95_s", "latency limit at p95, in seconds (default: no limit)", "number")
SERVING_LOAD = "requests in flight (or max, or 2.5/s) x prompt + answer tokens (default: max x 1024 + 1024)"
TRAINING_LAYOUT = "ranks (default: the fastest that fit), number format, recompute; lora, scratch"


def _predict(what: str, help: str, *args: Arg) -> Verb:  # noqa: A002 - the field's name
    return Verb(f"predict {what}", f"predict {help}, with uncertainty bands", args, "show_sizing.print_prediction")


SIZING_VERBS: tuple[Verb, ...] = (
    _predict(
        "serving",
        "latency and throughput of a model on accelerators",
        require_positional("model", "name of the model"),
        ON_DEVICES,
        Arg("load", SERVING_LOAD, default="max x 1024 + 1024", metavar="64x1024+512"),
        Arg("engine", "engine and version (default: assumed, and listed as such)", default=""),
        Arg(
            "layout", "ranks and number format (default: assumed, and listed as such)", default="", metavar="'TP4 fp8'"
        ),
    ),
    _predict(
        "training",
        "throughput, memory, device hours and cost of a training run",
        require_positional("model", "name of the model, or a size such as 13B"),
        ON_DEVICES,
        Arg(
            "load",
            "sequences per batch x tokens per sequence (default: 256x4096)",
            default="256x4096",
            metavar="256x4096",
        ),
        Arg("layout", TRAINING_LAYOUT, default="", metavar="'FSDP8 micro 1 bf16'"),
        Arg("tokens", "tokens of the whole run, for device hours and days (default: none)", "number"),
        Arg("usd_per_hour", "price of one device in USD per hour, for the cost of the run (default: none)", "number"),
    ),
    _predict(
        "embedding",
        "texts per second that a machine embeds",
        require_positional("model", "name of the embedding model"),
        Arg("on", "count and accelerator, or vCPUs, such as 1xNAME or '16 vCPU'", required=True, metavar="1xNAME"),
        Arg("tokens", "tokens per text: mean, or mean..p95 (default: 500)", default="500", metavar="500..1500"),
        LATENCY,
    ),
    _predict(
        "image",
        "images per second that a machine classifies",
        MACHINE,
        Arg("pixels", "pixels per image", "number", required=True),
        Arg("parameters", "parameters of the network", "number", required=True),
        LATENCY,
    ),
    _predict(
        "table",
        "rows per second that a machine predicts by boosted trees",
        MACHINE,
        Arg("features", "features per row", "integer", required=True),
        LATENCY,
    ),
    _predict(
        "data",
        "hours a machine takes to ingest and refine data",
        MACHINE,
        Arg("gib", "size of the data in GiB", "number", required=True),
    ),
    Verb(
        "accuracy",
        "predict each row of a benchmark table, and score rows with measurements",
        (
            require_positional("file", "CSV table to predict", metavar="FILE.csv"),
            Arg("rows_out", "file for the predictions (default: none)", metavar="OUT.csv"),
        ),
        "show_sizing.print_accuracy",
    ),
)
