"""The terminal output of `render` and `verify`."""

from typing import Any

from rich.markup import escape

from archwright.cli.show import as_json, make_console
from archwright.cli.table_layout import print_indented

__all__ = ["as_json", "print_check", "print_render"]


def print_render(result: Any) -> int:
    out = make_console()
    out.print(f"\n[bold]{result.files} files for {escape(result.target)}[/] in {escape(result.folder)}")
    print_indented(out, f"option: {escape(result.option)}")
    for note in result.notes:
        print_indented(out, f"note: {escape(note)}")
    if result.open_pins:
        print_indented(out, f"not resolved: {escape(', '.join(result.open_pins))}")
    print_indented(
        out, f"next: read {escape(result.folder)}/README.md, then archwright verify {escape(result.folder)}\n"
    )
    return 0


def print_check(result: Any) -> int:
    """Exit status 3 if the bundle is not ready."""
    out = make_console()
    for one in result.problems:
        out.print(f"[bold]{escape(one.subject)}[/]: {escape(one.problem)}", soft_wrap=True)
        if one.command:
            print_indented(out, escape(one.command))
    for note in result.notes:
        out.print(f"note: {escape(note)}", soft_wrap=True)
    if not result.problems:
        out.print(f"{escape(result.folder)} is ready: option {escape(result.option)} for {escape(result.target)}")
    return 3 if result.problems else 0
