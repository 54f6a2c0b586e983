"""The verbs of the shell, read from verbs.json.

A verb is one entry, named after its public function in `archwright.api`.

The help of a verb is an imperative phrase. The help of an argument is a noun phrase with its
default, unit and "(repeatable)". An argument that is a word stands for the arguments of that name
in `shared`. A test compares each verb with its function's signature.

Design: verbs are data, so `--help` imports no other package. The data is JSON, because a YAML
parser would cost every command 20 ms at its start.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

# Groups of verbs whose public functions stand in no module of the group's name.
GROUPS_WITHOUT_MODULE = ("predict", "import")
FILE = Path(__file__).parent / "verbs.json"


class Arg(NamedTuple):
    """A positional argument or an option (`--name`) for the keyword of the same name.

    With `of`: for the field of the same name of the record that is the keyword `of`. "texts" is
    repeatable.
    """

    name: str
    help: str
    kind: Literal["text", "texts", "integer", "number", "flag"] = "text"
    positional: bool = False
    required: bool = False
    default: object = None
    short: str = ""
    metavar: str = ""
    of: str = ""


@dataclass(frozen=True, slots=True)
class Verb:
    """A command.

    `name` is a word, or a group and a word; `show` names the function that prints its result.
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
        """The name of the public function: `models.show`.

        That of `predict serving` is `predict_serving`, because `predict` is no module.
        """
        group, _, word = self.name.rpartition(" ")
        if not group:
            return word
        separator = "_" if group in GROUPS_WITHOUT_MODULE else "."
        return group + separator + word


def _read_verbs(table: dict[str, Any]) -> tuple[Verb, ...]:
    verbs: list[Verb] = []
    for entry in table["verbs"]:
        rows: list[dict[str, Any]] = []
        for argument in entry.get("args", ()):
            if isinstance(argument, str):
                rows += table["shared"][argument]
            else:
                rows.append(argument)
        args = [Arg(**row) for row in rows]
        verbs.append(Verb(**{**entry, "args": tuple(args)}))
    return tuple(verbs)


_TABLE: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
VERBS = _read_verbs(_TABLE)
GROUPS: dict[str, str] = _TABLE["groups"]
