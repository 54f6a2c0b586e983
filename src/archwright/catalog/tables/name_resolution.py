"""Resolves the spellings of accelerators and models to the rows of the catalog.

A spelling matches a row if each of its words, except vendor words, is a word of the row (id, form, memory size). If
several rows match ("the 80 GB ones"), a plain name means the choice of the alias table, else the first row.
"""

import difflib
import re
from collections.abc import Iterable, Mapping

from archwright.catalog.tables.records import Accelerator, Alias, ModelSpec
from archwright.errors import CatalogError, ErrorLocation

MACHINE = re.compile(r"^\s*(\d{1,4})\s*[xX×]\s*(.+)$")
# Suffixes of model names that do not distinguish models.
MODEL_NOISE = re.compile(r"(instruct|chat|fp8|nvfp4|bf16|it)$")


def split_words(text: str) -> list[str]:
    """Split into lower-case words; a number keeps its unit, so `80 GB` becomes `80gb`."""
    joined = re.sub(r"(\d)\s+(gi?b)\b", r"\1\2", text.lower())
    return re.findall(r"[a-z0-9.]+", joined.replace("gib", "gb"))


def normalise_name(text: str) -> str:
    return "".join(split_words(text)).replace(".", "")


def match_accelerator_family(
    name: str, rows: Mapping[str, Accelerator], aliases: Iterable[Alias]
) -> tuple[Accelerator, ...]:
    """Return every row that the name matches, in table order; text in brackets does not count."""
    ignored = {word for row in rows.values() for word in (*split_words(row.vendor), row.kind)}
    ignored |= {alias.name for alias in aliases if alias.kind == "word"}
    words = [word for word in split_words(re.sub(r"\(.*?\)", " ", name)) if word not in ignored]
    # A form or a memory size alone does not identify an accelerator.
    if not any(re.search(r"\d", word) and not re.fullmatch(r"\d+gb", word) for word in words):
        return ()
    key = normalise_name(" ".join(words))
    return tuple(row for row in rows.values() if key == normalise_name(row.id) or set(words) <= _row_words(row))


def _row_words(row: Accelerator) -> set[str]:
    found = {*split_words(row.id), *split_words(row.form), *split_words(row.memory_marketing)}
    return found | {re.sub(r"\d+$", "", word) for word in split_words(row.form)}


def resolve_accelerator(name: str, rows: Mapping[str, Accelerator], aliases: Iterable[Alias]) -> Accelerator:
    """Return one row for `name`. Raises CatalogError AW-CAT-01 with the nearest spellings."""
    known = {normalise_name(alias.name): alias.id for alias in aliases if alias.kind == "accelerator"}
    direct = rows.get(name) or rows.get(known.get(normalise_name(name), ""))
    if direct is not None:
        return direct
    family = match_accelerator_family(name, rows, aliases)
    if family:
        return family[0]
    raise unknown_name_error("accelerator", name, rows)


def resolve_model(name: str, rows: Mapping[str, ModelSpec], aliases: Iterable[Alias]) -> ModelSpec:
    """Return one row for `name`; the organisation and suffixes such as `-Instruct` are optional."""
    known = {normalise_name(alias.name): alias.id for alias in aliases if alias.kind == "model"}
    bare = name.rsplit("/", 1)[-1]
    direct = rows.get(name) or rows.get(known.get(normalise_name(bare), ""))
    if direct is not None:
        return direct
    key = _model_key(bare)
    for row in rows.values():
        if key and key == _model_key(row.id):
            return row
    raise unknown_name_error("model", name, rows)


def match_model_family(name: str, rows: Mapping[str, ModelSpec]) -> tuple[ModelSpec, ...]:
    """Return every row whose id has all words of `name`, in table order; a version may be missing ("qwen" of qwen3)."""
    words = {word for word in split_words(name.rsplit("/", 1)[-1]) if _model_key(word)}
    # A size alone does not identify a model.
    if all(re.fullmatch(r"[\d.]+[bmt]?", word) for word in words):
        return ()
    return tuple(row for row in rows.values() if words <= _versioned_words(row.id))


def _versioned_words(name: str) -> set[str]:
    words = split_words(name)
    return {*words, *(re.sub(r"[\d.]+$", "", word) for word in words)}


def _model_key(name: str) -> str:
    key, shorter = "", normalise_name(name)
    while key != shorter:
        key, shorter = shorter, MODEL_NOISE.sub("", shorter)
    return key


def parse_machine(text: str) -> tuple[int, str]:
    """Return count and name of the accelerator in a machine like `8x NAME`; the count defaults to 1."""
    match = MACHINE.match(text)
    return (int(match.group(1)), match.group(2).strip()) if match else (1, text.strip())


def unknown_name_error(kind: str, name: str, known: Iterable[str], where: ErrorLocation | None = None) -> CatalogError:
    spellings = {normalise_name(item): item for item in known}
    close = difflib.get_close_matches(normalise_name(name), list(spellings), n=3, cutoff=0.5)
    nearest = tuple(spellings[item] for item in close)
    hint = f"did you mean {', '.join(nearest)}?" if nearest else f"see the {kind} table of the catalog"
    return CatalogError("AW-CAT-01", f"unknown {kind} {name!r}", where=where, hint=hint, nearest=nearest)
