"""The terminal output of indexes and searches."""

from rich.markup import escape

from archwright.api.data_index import IndexOutcome
from archwright.api.data_search import Passage, SearchOutcome
from archwright.cli.show import as_json, make_console, print_text
from archwright.contract.number_format import format_quantity

__all__ = ["as_json", "print_index", "print_passages"]

SHOWN_CHARACTERS = 320


def print_index(result: IndexOutcome) -> int:
    out = make_console()
    state = "" if result.new else "  (nothing changed: this index exists)"
    out.print(f"[bold]{escape(result.version)}[/]{state}", soft_wrap=True)
    vectors = f"vectors of {result.model} ({result.dimensions} numbers)" if result.model else "no vectors"
    size = format_quantity(result.size_bytes, "bytes")
    out.print(
        f"  {result.passages:,} passages of the column {escape(result.column)}, keywords, {escape(vectors)}, {size}"
    )
    if result.note:
        out.print(f"  note: {escape(result.note)}", soft_wrap=True)
    return print_text(f'  search: archwright data search {result.version.partition("@")[0]} "a question"')


def print_passages(result: SearchOutcome) -> int:
    out = make_console()
    for number, passage in enumerate(result.passages, 1):
        out.print(f"[bold]{number}[/]  {escape(describe_place(passage))}  score {passage.score:.4f}", soft_wrap=True)
        text = " ".join(passage.text.split())
        out.print(f"   {escape(text[:SHOWN_CHARACTERS])}{'...' if len(text) > SHOWN_CHARACTERS else ''}\n")
    count = len(result.passages) or "no"
    return print_text(f"{count} passage{'' if count == 1 else 's'} in {result.version}, {result.mode} search")


def describe_place(passage: Passage) -> str:
    page = "" if passage.page is None else f", page {passage.page}"
    return f"{passage.source_file}, row {passage.source_row}{page}, characters {passage.start} to {passage.end}"
