"""The verbs of model files, model versions and lineage."""

from __future__ import annotations

from archwright.cli.verb_spec import Arg, Verb, require_positional

VERSION = require_positional("id", "id of a version, or a name for its newest version")
DRY_RUN = Arg("dry_run", "description of the change, without the change itself", "flag")

MODEL_VERBS: tuple[Verb, ...] = (
    Verb("models fetch", "fetch a model file into the home", (require_positional("name", "name of the model"),)),
    Verb("models list", "list model files and trained versions", (), "show_models.print_models"),
    Verb("models show", "show a version: its scores, its gates and its origin", (VERSION,), "show_models.print_model"),
    Verb(
        "models evaluate",
        "measure a version on held-out rows and check its gates",
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
        "restore the previous version in production",
        (require_positional("name", "endpoint: the name of the model"), DRY_RUN),
        "show_models.print_change",
    ),
    Verb(
        "models history",
        "list every promotion and rollback, oldest first",
        (
            Arg("name", "endpoint to show (default: all)", positional=True),
            Arg("at", "time of the state to show (default: all changes)", metavar="ISO-TIME"),
        ),
        "show_models.print_history",
    ),
    Verb(
        "lineage",
        "trace an answer, a model, a run or a data set version to its source files",
        (require_positional("id", "request id of an answer, or id of a model, run or data set version"),),
        "show_models.print_lineage",
    ),
)
