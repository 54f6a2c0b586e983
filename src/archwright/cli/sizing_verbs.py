"""The verbs of sizing."""

from __future__ import annotations

from archwright.cli.verb_spec import Arg, Verb, require_positional

ON_DEVICES = Arg("on", "count and accelerator", required=True, metavar="4xNAME")
MACHINE = require_positional("on", "count and accelerator, or vCPUs", metavar="MACHINE")
LATENCY = Arg("latency_p95_s", "the latency's limit", "number")
SERVING_LOAD = "requests in flight x prompt + answer tokens"
TRAINING_LAYOUT = "ranks (chosen where none are stated), number format, recompute; lora, scratch"


def _predict(what: str, help: str, *args: Arg) -> Verb:  # noqa: A002 - the field's name
    return Verb(f"predict {what}", f"{help}, with bands", args, "show_sizing.print_prediction")


SIZING_VERBS: tuple[Verb, ...] = (
    _predict(
        "serving",
        "latency and throughput of a model on accelerators",
        require_positional("model", "a model"),
        ON_DEVICES,
        Arg("load", SERVING_LOAD, default="max x 1024 + 1024", metavar="64x1024+512"),
        Arg("engine", "engine and version", default=""),
        Arg("layout", "ranks and number format", default="", metavar="'TP4 fp8'"),
    ),
    _predict(
        "training",
        "throughput, memory, device hours and cost of a training run",
        require_positional("model", "a model, or a size such as 13B"),
        ON_DEVICES,
        Arg("load", "sequences in a batch x tokens of each", default="256x4096", metavar="256x4096"),
        Arg("layout", TRAINING_LAYOUT, default="", metavar="'FSDP8 micro 1 bf16'"),
        Arg("tokens", "tokens of the whole run", "number"),
        Arg("usd_per_hour", "price of one device, for the cost of the run", "number"),
    ),
    _predict(
        "embedding",
        "texts a second that a machine turns into vectors",
        require_positional("model", "an embedding model"),
        Arg("on", "count and accelerator, or vCPUs", required=True, metavar="1xNAME"),
        Arg("tokens", "tokens of a text: mean, or mean..p95", default="500", metavar="500..1500"),
        LATENCY,
    ),
    _predict(
        "image",
        "images a second that a machine classifies",
        MACHINE,
        Arg("pixels", "pixels of an image", "number", required=True),
        Arg("parameters", "parameters of the network", "number", required=True),
        LATENCY,
    ),
    _predict(
        "table",
        "rows of features a second that a machine predicts from",
        MACHINE,
        Arg("features", "features of a row", "integer", required=True),
        LATENCY,
    ),
    _predict(
        "data",
        "hours a machine takes to ingest and refine data",
        MACHINE,
        Arg("gib", "GiB of data", "number", required=True),
    ),
    Verb(
        "accuracy",
        "predict each row of a benchmark table, and score where it holds measurements",
        (
            require_positional("file", "a CSV table", metavar="FILE.csv"),
            Arg("rows_out", "write the predictions there", metavar="OUT.csv"),
        ),
        "show_sizing.print_accuracy",
    ),
)
