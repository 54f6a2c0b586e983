"""What a row of the verbs' tables says."""

from __future__ import annotations

from typing import Literal, NamedTuple

# "texts" may be given several times.
ArgKind = Literal["text", "texts", "integer", "number", "flag"]


class Arg(NamedTuple):
    """A positional or an option (`--name`), parsed into the keyword of the same name; or, with `of`, into the field of
    the same name of a record that is the keyword `of`."""

    name: str
    help: str
    kind: ArgKind = "text"
    positional: bool = False
    required: bool = False
    default: object = None
    short: str = ""
    metavar: str = ""
    of: str = ""


def require_positional(name: str, help: str, metavar: str = "") -> Arg:  # noqa: A002 - the field's name
    """The row of what a verb acts on."""
    return Arg(name, help, positional=True, required=True, metavar=metavar)


class Verb(NamedTuple):
    """`name` is one word, or a group and a word. `show` names the function that prints the result for people: of
    cli/show.py, or of another file as "show_data.print_versions". Such a file has an `as_json` too (cli/show.py's,
    imported, where nothing is special)."""

    name: str
    help: str
    args: tuple[Arg, ...] = ()
    show: str = "print_record"

    @property
    def words(self) -> tuple[str, ...]:
        return tuple(self.name.split())

    @property
    def function(self) -> str:
        """The public function: `models.show` of a group, `predict_serving` where the group is no module of the API."""
        return self.name.replace("predict ", "predict_").replace(" ", ".")
