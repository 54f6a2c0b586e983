"""The verbs of the catalog's facts."""

from __future__ import annotations

from archwright.cli.verb_spec import Arg, Verb, require_positional

CATALOG_VERBS: tuple[Verb, ...] = (
    Verb(
        "catalog show",
        "show a fact: its value in each layer, with source and age",
        (require_positional("name", "name of a model, accelerator, offer, part, node or price, or the id of a basis"),),
        "show_catalog.print_fact",
    ),
    Verb(
        "catalog check",
        "check the rows, ages and sources of the tables, and run the plausibility gates",
        (),
        "show_catalog.print_check",
    ),
    Verb(
        "catalog diff",
        "show the changes of a refresh, and the plans that rest on them",
        (Arg("plan", "plan.json to check (default: the running plan and plan.json of the folder)", positional=True),),
        "show_catalog.print_diff",
    ),
    Verb(
        "catalog refresh",
        "replace shipped facts by newer facts from files; nothing is fetched",
        (
            Arg("from_dir", "folder with the files of the sources (--from DIR)", metavar="DIR"),
            Arg("only", "class of facts: offers, machines, hosted, storage or grid (default: all)", metavar="CLASS"),
            Arg("rollback", "return to the facts in force before the last refresh", "flag"),
        ),
        "show_catalog.print_refresh",
    ),
)
