"""The verbs of the data lake."""

from __future__ import annotations

from archwright.cli.verb_spec import Arg, Verb, require_positional

DATA_VERBS: tuple[Verb, ...] = (
    Verb(
        "data ingest",
        "bring files into a data set: jsonl, csv, parquet, txt, md",
        (
            require_positional("path", "a file, or a folder with all that is in it"),
            Arg("name", "the data set: lower case letters, digits, dashes", required=True),
            Arg("licence", "the data's licence, kept with every version", default=""),
        ),
        "show_data.print_outcome",
    ),
    Verb(
        "data refine",
        "drop duplicates and redact by a recipe, into another data set",
        (require_positional("recipe", "from, into and the steps", metavar="recipe.yaml"),),
        "show_data.print_outcome",
    ),
    Verb("data list", "data sets and their versions", (), "show_data.print_versions"),
    Verb(
        "data show",
        "what is in a version, what it was made of, and what was made of it",
        (require_positional("id", "NAME@v1, or NAME for the newest version"),),
        "show_data.print_card",
    ),
)
