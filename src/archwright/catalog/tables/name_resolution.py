"""Resolves the spellings of accelerators and models to the rows of the catalog.

A spelling matches a row if each of its words, except vendor words, is a word of the row (id, form, memory size). If
several rows match ("the 80 GB ones"), a plain name means the choice of the alias table, else the first row.

A chip with unified memory is sold with several sizes of it: a stated size that no row has replaces the row's. A plain
name of several such chips ("M3 Max": 30 or 40 GPU cores) means their middle, with the band of recalled figures, which
holds all of them.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from statistics import geometric_mean

from archwright.catalog.tables.records import Accelerator, Alias, ModelSpec
from archwright.contract.record import replace
from archwright.errors import CatalogError, ErrorLocation

MACHINE = re.compile(r"^\s*(\d{1,4})\s*[xX×]\s*(.+)$")
# Text in brackets does not count, except the cores of a GPU, which tell variants of a chip apart.
BRACKETS = re.compile(r"\((?!\d+-core).*?\)")
# The computers that carry a chip's name; "Pro" is a word of some chips, too.
COMPUTER = re.compile(r"\b(?:macbook(?: pro| air)?|mac (?:studio|mini|pro)|imac)\b", re.IGNORECASE)
MEMORY_SIZE = re.compile(r"\b([1-9]\d{0,3})\s*gi?b\b", re.IGNORECASE)
SIZE_WORD = re.compile(r"\d+gb")
DIGIT = re.compile(r"\d")
GPU_CORES = re.compile(r"(\d+) GPU cores")
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
    """Return every row that the name matches, in table order; most text in brackets does not count."""
    words = _list_identifying_words(name, rows, aliases)
    # A form or a memory size alone does not identify an accelerator; a name without a number is one in whole only.
    named = _drop_sizes(words)
    is_numbered = DIGIT.search("".join(named))
    key = normalise_name(" ".join(words))
    wanted = set(words)
    matches: list[Accelerator] = []
    chips: list[Accelerator] = []
    for row in rows.values():
        if key != normalise_name(row.id) and not wanted <= _row_words(row):
            continue
        id_words = split_words(row.id)
        if not is_numbered and named != _drop_sizes(id_words):
            continue
        matches.append(row)
        if row.kind == "soc" and wanted.issuperset(split_words(row.arch)):
            chips.append(row)
    # "M2" is the chip of this name before it is the beginning of "M2 Ultra".
    return tuple(chips or matches)


def _drop_sizes(words: Iterable[str]) -> set[str]:
    named: set[str] = set()
    for word in words:
        if not SIZE_WORD.fullmatch(word):
            named.add(word)
    return named


def _list_identifying_words(name: str, rows: Mapping[str, Accelerator], aliases: Iterable[Alias]) -> list[str]:
    ignored = set()
    for alias in aliases:
        if alias.kind == "word":
            ignored.add(alias.name)
    for row in rows.values():
        ignored.update(split_words(row.vendor))
        ignored.add(row.kind)
    plain = COMPUTER.sub(" ", BRACKETS.sub(" ", name))
    return [word for word in split_words(plain) if word not in ignored]


def _row_words(row: Accelerator) -> set[str]:
    words = {*split_words(row.id), *split_words(row.form), *split_words(row.memory_marketing)}
    gpu_cores = GPU_CORES.match(row.notes)
    if gpu_cores is not None:
        words |= {gpu_cores[1], "core"}
    return words | {re.sub(r"\d+$", "", word) for word in split_words(row.form)}


def resolve_accelerator(name: str, rows: Mapping[str, Accelerator], aliases: Iterable[Alias]) -> Accelerator:
    """Return one row for `name`. Raises CatalogError AW-CAT-01 with the nearest spellings."""
    known = {normalise_name(alias.name): alias.id for alias in aliases if alias.kind == "accelerator"}
    direct = rows.get(name) or rows.get(known.get(normalise_name(name), ""))
    if direct is not None:
        return direct
    family = match_accelerator_family(name, rows, aliases)
    if family:
        return _merge_variants(family)
    stated_memory = MEMORY_SIZE.search(name)
    if stated_memory is None:
        raise unknown_name_error("accelerator", name, rows)
    chip = MEMORY_SIZE.sub(" ", name)
    alias = known.get(normalise_name(BRACKETS.sub(" ", chip)), "")
    variants = match_accelerator_family(chip, rows, aliases)
    if alias in rows:
        variants = (rows[alias],)
    memory_bytes = int(stated_memory[1]) * 2**30
    if not any(row.is_memory_shared for row in variants):
        raise unknown_name_error("accelerator", name, rows)
    # A variant of a chip is not sold with more than its row states.
    sold = tuple(row for row in variants if row.memory_bytes >= memory_bytes)
    return replace(_merge_variants(sold or variants), memory_bytes=memory_bytes)


def _merge_variants(family: tuple[Accelerator, ...]) -> Accelerator:
    """Return the first row, or the middle of the variants of one chip."""
    first = family[0]
    if not first.is_memory_shared:
        return first
    variants = [first]
    for row in family:
        same_memory = row.memory_bandwidth_bytes_per_s == first.memory_bandwidth_bytes_per_s
        if row.arch == first.arch and not (same_memory and row.flops == first.flops):
            variants.append(row)
    if len(variants) == 1:
        return first
    bandwidths = []
    names = []
    rates: dict[str, list[float]] = {}
    for row in variants:
        bandwidths.append(row.memory_bandwidth_bytes_per_s)
        names.append(row.id)
        for dtype, rate in row.flops.items():
            rates.setdefault(dtype, []).append(rate)
    flops = {dtype: geometric_mean(stated_rates) for dtype, stated_rates in rates.items()}
    chip = first.arch.replace(" ", "-")
    return replace(
        first,
        id=f"{first.vendor}-{chip}",
        memory_bandwidth_bytes_per_s=geometric_mean(bandwidths),
        flops=flops,
        confidence="recalled",
        notes=f"the middle of {', '.join(names)}",
    )


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
