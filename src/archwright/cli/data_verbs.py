"""The verbs of the data lake."""

from __future__ import annotations

from archwright.cli.verb_spec import Arg, Verb, require_positional

DATA_VERBS: tuple[Verb, ...] = (
    Verb(
        "data ingest",
        "ingest files into a data set: jsonl, csv, parquet, txt, md",
        (
            require_positional("path", "file, or folder with all its files"),
            Arg("name", "name of the data set: lower case letters, digits, dashes", required=True),
            Arg("licence", "licence of the data, recorded with the version (default: none)", default=""),
        ),
        "show_data.print_outcome",
    ),
    Verb(
        "data refine",
        "drop duplicates and redact by a recipe, into another data set",
        (require_positional("recipe", "recipe with the fields from, into and steps", metavar="recipe.yaml"),),
        "show_data.print_outcome",
    ),
    Verb("data list", "list data sets and their versions", (), "show_data.print_versions"),
    Verb(
        "data show",
        "show a version: its content, its origin and its uses",
        (require_positional("id", "version NAME@v1, or NAME for the newest version"),),
        "show_data.print_card",
    ),
)
