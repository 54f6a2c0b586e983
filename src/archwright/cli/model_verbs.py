"""The verbs of model files and versions."""

from __future__ import annotations

from archwright.cli.grammar import Arg, Verb

MODEL_VERBS: tuple[Verb, ...] = (
    Verb(
        ("models", "fetch"),
        "models.fetch",
        "bring a model file into the home",
        (Arg("name", "the model", positional=True, required=True),),
    ),
    Verb(("models", "list"), "models.list", "model files known and here", (), "table"),
)
