"""The verbs of the catalog's facts."""

from __future__ import annotations

from archwright.cli.verb_spec import Arg, Verb, require_positional

CATALOG_VERBS: tuple[Verb, ...] = (
    Verb(
        "catalog show",
        "a fact: each layer that states it, with source and age",
        (require_positional("name", "a model, accelerator, offer, part, node, price ..."),),
        "show_catalog.print_fact",
    ),
    Verb(
        "catalog check",
        "rows, age and sources of the tables; what the plausibility gates find",
        (),
        "show_catalog.print_check",
    ),
    Verb(
        "catalog diff",
        "what a refresh has changed, and which plans rest on it",
        (Arg("plan", "a plan.json; default: the running plan and the folder's", positional=True),),
        "show_catalog.print_diff",
    ),
    Verb(
        "catalog refresh",
        "lay newer facts over the shipped ones, from files you bring: nothing is fetched",
        (
            Arg("from_dir", "the folder with the sources' files (--from DIR)", metavar="DIR"),
            Arg("only", "one class: offers, machines, hosted, storage or grid", metavar="CLASS"),
            Arg("rollback", "go back to what was in force before the last refresh", "flag"),
        ),
        "show_catalog.print_refresh",
    ),
)
