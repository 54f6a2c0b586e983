"""The terminal output of indexes and searches."""

from rich.markup import escape

from archwright.api.data_index import IndexOutcome
from archwright.api.data_search import Passage, SearchOutcome
from archwright.cli.show import as_json, make_console, print_text
from archwright.contract.number_format import format_quantity

__all__ = ["as_json", "print_index", "print_passages"]

SHOWN_CHARACTERS = 320


def print_index(result: IndexOutcome) -> int:
    state = "" if result.new else "  (nothing changed: this index exists)"
    vectors = "no vectors"
    if result.model:
        vectors = f"vectors of {result.model} ({result.dimensions} numbers)"
    passages = f"{result.passages:,} passages of the column {escape(result.column)}"
    size = format_quantity(result.size_bytes, "bytes")

    out = make_console()
    out.print(f"[bold]{escape(result.version)}[/]{state}", soft_wrap=True)
    out.print(f"  {passages}, keywords, {escape(vectors)}, {size}")
    if result.note:
        out.print(f"  note: {escape(result.note)}", soft_wrap=True)
    dataset, _, _ = result.version.partition("@")
    return print_text(f'  search: archwright data search {dataset} "a question"')


def print_passages(result: SearchOutcome) -> int:
    out = make_console()
    for number, passage in enumerate(result.passages, 1):
        origin = escape(describe_place(passage))
        out.print(f"[bold]{number}[/]  {origin}  score {passage.score:.4f}", soft_wrap=True)
        excerpt = escape(_shorten(passage.text))
        out.print(f"   {excerpt}\n")

    count = len(result.passages)
    noun = "passage" if count == 1 else "passages"
    return print_text(f"{count or 'no'} {noun} in {result.version}, {result.mode} search")


def _shorten(text: str) -> str:
    """Return the first characters of a text on one line."""
    words = " ".join(text.split())
    if len(words) <= SHOWN_CHARACTERS:
        return words
    return words[:SHOWN_CHARACTERS] + "..."


def describe_place(passage: Passage) -> str:
    source = f"{passage.source_file}, row {passage.source_row}"
    if passage.page is not None:
        source += f", page {passage.page}"
    return f"{source}, characters {passage.start} to {passage.end}"
