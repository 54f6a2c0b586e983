"""What a row of the verbs' tables says."""

from __future__ import annotations

from typing import Literal, NamedTuple

# "texts" may be given several times.
ArgKind = Literal["text", "texts", "integer", "number", "flag"]


class Arg(NamedTuple):
    """A positional (the thing) or an option (`--name`), parsed into the keyword of the same name; or, with `of`, into
    the field of the same name of a record that is the keyword `of`."""

    name: str
    help: str
    kind: ArgKind = "text"
    positional: bool = False
    required: bool = False
    default: object = None
    short: str = ""
    metavar: str = ""
    of: str = ""


class Verb(NamedTuple):
    """`show` names the function that prints its result for people: of cli/show.py, or of another file as
    "show_data.print_versions". Such a file has an `as_json` too (cli/show.py's, imported, where nothing is special)."""

    words: tuple[str, ...]
    function: str
    help: str
    args: tuple[Arg, ...] = ()
    show: str = "print_record"
