"""The needs files that `archwright init --template NAME` writes: one for each size of organisation."""

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
    """Return the text of a shipped needs file. Raises NeedsError for a name that is not in TEMPLATES."""
    if name not in TEMPLATES:
        found = nearest_spellings(name, TEMPLATES)
        hint = f"{f'did you mean {found[0]}? ' if found else ''}use one of: {', '.join(TEMPLATES)}"
        message, where = f"there is no template {quote_value(name)}", ErrorLocation(None, None, "template")
        raise NeedsError(NeedsCode.NO_TEMPLATE, message, where=where, hint=hint, nearest=found)
    return (resources.files("archwright.needs") / "templates" / f"{name}.yaml").read_text(encoding="utf-8")
