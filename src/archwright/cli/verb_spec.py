"""The records of the tables of verbs."""

from __future__ import annotations

from typing import Literal, NamedTuple

# "texts" is repeatable.
ArgKind = Literal["text", "texts", "integer", "number", "flag"]


class Arg(NamedTuple):
    """A positional argument or an option (`--name`) for the keyword of the same name.

    With `of`: for the field of the same name of the record that is the keyword `of`.
    """

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
    """Make the row of a required positional argument."""
    return Arg(name, help, positional=True, required=True, metavar=metavar)


class Verb(NamedTuple):
    """A command. `name` is a word, or a group and a word.

    `show` names the function that prints the result for people: a function of cli/show.py, or of another module, such
    as "show_data.print_versions". Every such module has an `as_json`.
    """

    name: str
    help: str
    args: tuple[Arg, ...] = ()
    show: str = "print_record"

    @property
    def words(self) -> tuple[str, ...]:
        return tuple(self.name.split())

    @property
    def function(self) -> str:
        """The name of the public function: `models.show`; `predict_serving`, because `predict` is no module."""
        return self.name.replace("predict ", "predict_").replace(" ", ".")
