"""The verbs of training."""

from __future__ import annotations

from archwright.cli.verb_spec import Verb, require_positional

RUN = require_positional("id", "id of a run, or a name for its newest run")

TRAIN_VERBS: tuple[Verb, ...] = (
    Verb(
        "train",
        "train a model on a dataset version by a spec file",
        (require_positional("spec", "spec file of the training", metavar="spec.yaml"),),
        "show_train.print_training",
    ),
    Verb("runs list", "list training runs, oldest first", (), "show_train.print_runs"),
    Verb("runs show", "show a run: its figures, plan versus actual", (RUN,), "show_train.print_run"),
    Verb("runs resume", "continue an interrupted run", (RUN,), "show_train.print_training"),
)
