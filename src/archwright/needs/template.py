"""The needs files that `archwright init --template NAME` writes, by size of organisation."""

from importlib import resources

from archwright.errors import ErrorLocation, NeedsError
from archwright.needs.needs_problem import NeedsCode, nearest_spellings
from archwright.specfile import quote_value

TEMPLATES: tuple[str, ...] = (
    "desk",
    "startup",
    "clinic",
    "manufacturer",
    "insurer",
    "publisher",
    "logistics",
    "public-administration",
    "game-studio",
    "research-laboratory",
)


def read_template(name: str) -> str:
    """Return the text of a shipped needs file. Raises NeedsError for a name not in TEMPLATES."""
    if name not in TEMPLATES:
        raise _unknown_template(name)
    folder = resources.files("archwright.needs") / "templates"
    return (folder / f"{name}.yaml").read_text(encoding="utf-8")


def _unknown_template(name: str) -> NeedsError:
    nearest = nearest_spellings(name, TEMPLATES)
    hint = f"use one of: {', '.join(TEMPLATES)}"
    if nearest:
        hint = f"did you mean {nearest[0]}? {hint}"
    return NeedsError(
        NeedsCode.NO_TEMPLATE,
        f"there is no template {quote_value(name)}",
        where=ErrorLocation(None, None, "template"),
        hint=hint,
        nearest=nearest,
    )
