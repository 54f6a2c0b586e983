"""The verbs of training."""

from __future__ import annotations

from archwright.cli.verb_spec import Verb, require_positional

RUN = require_positional("id", "a run's id, or a name for its newest run")

TRAIN_VERBS: tuple[Verb, ...] = (
    Verb(
        "train",
        "train a model on a dataset version, as a spec file says",
        (require_positional("spec", "the spec file", metavar="spec.yaml"),),
        "show_train.print_training",
    ),
    Verb("runs list", "training runs, oldest first", (), "show_train.print_runs"),
    Verb("runs show", "one run: its figures, plan versus actual", (RUN,), "show_train.print_run"),
    Verb("runs resume", "go on with a run that was broken off", (RUN,), "show_train.print_training"),
)
