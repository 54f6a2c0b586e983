"""The verbs of model files and versions, and of where things come from."""

from __future__ import annotations

from archwright.cli.verb_spec import Arg, Verb, require_positional

VERSION = require_positional("id", "a version's id, or a name for its newest version")
DRY_RUN = Arg("dry_run", "only say what would be changed", "flag")

MODEL_VERBS: tuple[Verb, ...] = (
    Verb("models fetch", "bring a model file into the home", (require_positional("name", "the model"),)),
    Verb("models list", "model files known and versions trained", (), "show_models.print_models"),
    Verb("models show", "a version: its scores, its gates, what it was made of", (VERSION,), "show_models.print_model"),
    Verb(
        "models evaluate",
        "measure a version on held-out rows and hold it to its gates",
        (VERSION,),
        "show_models.print_evaluation",
    ),
    Verb(
        "models promote",
        "put a version that passed its gates into production",
        (VERSION, DRY_RUN),
        "show_models.print_change",
    ),
    Verb(
        "models rollback",
        "put back what was in production before",
        (require_positional("name", "the endpoint: the model's name"), DRY_RUN),
        "show_models.print_change",
    ),
    Verb(
        "models history",
        "every change of what is in production, oldest first",
        (
            Arg("name", "only this endpoint", positional=True),
            Arg("at", "only what was in production at that time", metavar="ISO-TIME"),
        ),
        "show_models.print_history",
    ),
    Verb(
        "lineage",
        "from an answer, a model, a run or a data set version to the files it came from",
        (require_positional("id", "an answer's request id, or any other id"),),
        "show_models.print_lineage",
    ),
)
