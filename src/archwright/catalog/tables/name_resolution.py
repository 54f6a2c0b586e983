"""Resolves how people and tools spell accelerators and models to the rows of the catalog.

A spelling matches when, vendor words aside, each of its words is a word of the row (id, form, memory size). Of several
rows ("the 80 GB ones") a plain name takes the alias table's choice, else the first.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping

from archwright.catalog.tables.records import Accelerator, Alias, ModelSpec
from archwright.errors import CatalogError, ErrorLocation

MACHINE = re.compile(r"^\s*(\d{1,4})\s*[xX×]\s*(.+)$")
# Words around a model's name that do not tell one model from another.
MODEL_NOISE = re.compile(r"(instruct|chat|fp8|nvfp4|bf16|it)$")


def split_words(text: str) -> list[str]:
    """Lower-case words; a number keeps the letters it is glued to, so `80 GB` becomes `80gb`."""
    joined = re.sub(r"(\d)\s+(gi?b)\b", r"\1\2", text.lower())
    return re.findall(r"[a-z0-9.]+", joined.replace("gib", "gb"))


def normalise_name(text: str) -> str:
    return "".join(split_words(text)).replace(".", "")


def match_accelerator_family(
    name: str, rows: Mapping[str, Accelerator], aliases: Iterable[Alias]
) -> tuple[Accelerator, ...]:
    """Every row the name covers, in table order; remarks in brackets do not count."""
    said = {word for row in rows.values() for word in (*split_words(row.vendor), row.kind)}
    said |= {alias.name for alias in aliases if alias.kind == "word"}
    asked = [word for word in split_words(re.sub(r"\(.*?\)", " ", name)) if word not in said]
    # A form or a memory size alone names no accelerator.
    if not any(re.search(r"\d", word) and not re.fullmatch(r"\d+gb", word) for word in asked):
        return ()
    whole = normalise_name(" ".join(asked))
    return tuple(row for row in rows.values() if whole == normalise_name(row.id) or set(asked) <= _row_words(row))


def _row_words(row: Accelerator) -> set[str]:
    found = {*split_words(row.id), *split_words(row.form), *split_words(row.memory_marketing)}
    return found | {re.sub(r"\d+$", "", word) for word in split_words(row.form)}


def resolve_accelerator(name: str, rows: Mapping[str, Accelerator], aliases: Iterable[Alias]) -> Accelerator:
    """One row for `name`. Raises CatalogError AW-CAT-01 with the nearest spellings."""
    known = {normalise_name(alias.name): alias.id for alias in aliases if alias.kind == "accelerator"}
    direct = rows.get(name) or rows.get(known.get(normalise_name(name), ""))
    if direct is not None:
        return direct
    family = match_accelerator_family(name, rows, aliases)
    if family:
        return family[0]
    raise unknown_name_error("accelerator", name, rows)


def resolve_model(name: str, rows: Mapping[str, ModelSpec], aliases: Iterable[Alias]) -> ModelSpec:
    """One row for `name`, its organisation prefix and suffixes like `-Instruct` optional."""
    known = {normalise_name(alias.name): alias.id for alias in aliases if alias.kind == "model"}
    bare = name.rsplit("/", 1)[-1]
    direct = rows.get(name) or rows.get(known.get(normalise_name(bare), ""))
    if direct is not None:
        return direct
    asked = _model_key(bare)
    for row in rows.values():
        if asked and asked == _model_key(row.id):
            return row
    raise unknown_name_error("model", name, rows)


def _model_key(name: str) -> str:
    key, shorter = "", normalise_name(name)
    while key != shorter:
        key, shorter = shorter, MODEL_NOISE.sub("", shorter)
    return key


def parse_machine(text: str) -> tuple[int, str]:
    """The count and the accelerator's name in a machine string like `8x NAME`; the count defaults to 1."""
    match = MACHINE.match(text)
    return (int(match.group(1)), match.group(2).strip()) if match else (1, text.strip())


def unknown_name_error(kind: str, name: str, known: Iterable[str], where: ErrorLocation | None = None) -> CatalogError:
    spellings = {normalise_name(item): item for item in known}
    close = difflib.get_close_matches(normalise_name(name), list(spellings), n=3, cutoff=0.5)
    nearest = tuple(spellings[item] for item in close)
    hint = f"did you mean {', '.join(nearest)}?" if nearest else f"see the {kind} table of the catalog"
    return CatalogError("AW-CAT-01", f"unknown {kind} {name!r}", where=where, hint=hint, nearest=nearest)
