"""The verbs of the shell, read from verbs.json: one entry each, named after its public function in `archwright.api`.

The help of a verb is an imperative phrase. The help of an argument is a noun phrase with its default, unit and
"(repeatable)". An argument that is a word stands for the arguments of that name in `shared`. A test compares each verb
with its function's signature.

Design: verbs are data, so `--help` imports no other package. The data is JSON, because a YAML parser would cost every
command 20 ms at its start.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

FILE = Path(__file__).parent / "verbs.json"


class Arg(NamedTuple):
    """A positional argument or an option (`--name`) for the keyword of the same name.

    With `of`: for the field of the same name of the record that is the keyword `of`. "texts" is repeatable.
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
    """A command. `name` is a word, or a group and a word; `show` names the function that prints its result."""

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
        return self.name.replace("predict ", "predict_").replace("import ", "import_").replace(" ", ".")


def _read_verbs(table: dict[str, Any]) -> tuple[Verb, ...]:
    def expand(row: Any) -> list[Any]:
        return table["shared"][row] if isinstance(row, str) else [row]

    return tuple(
        Verb(**{**verb, "args": tuple(Arg(**one) for row in verb.get("args", ()) for one in expand(row))})
        for verb in table["verbs"]
    )


_TABLE: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
VERBS = _read_verbs(_TABLE)
GROUPS: dict[str, str] = _TABLE["groups"]
