"""The terminal output of `render`, `resolve`, `verify` and `drift`."""

from rich.markup import escape

from archwright.api.drift_check import DriftReport
from archwright.api.pin_resolution import PinResolution
from archwright.api.rendering import BundleCheck, BundleProblem, RenderResult
from archwright.cli import show
from archwright.cli.show import make_console
from archwright.cli.table_layout import print_indented

NOT_READY = 3


def as_json(result: object) -> int:
    """Print JSON; the exit status is NOT_READY if the bundle has a problem, or its state differs."""
    status = show.as_json(result)
    if isinstance(result, DriftReport):
        return NOT_READY if result.findings else status
    return NOT_READY if isinstance(result, BundleCheck | PinResolution) and result.problems else status


def print_render(result: RenderResult) -> int:
    out = make_console()
    out.print(f"\n[bold]{result.files} files for {escape(result.target)}[/] in {escape(result.folder)}")
    print_indented(out, f"option: {escape(result.option)}")
    for note in result.notes:
        print_indented(out, f"note: {escape(note)}")
    step = f"archwright verify {result.folder}"
    if result.open_pins:
        print_indented(out, f"not resolved: {escape(', '.join(result.open_pins))}")
        step = f"archwright resolve {result.folder}"
    print_indented(out, f"next: read {escape(result.folder)}/README.md, then {escape(step)}\n")
    return 0


def print_resolution(result: PinResolution) -> int:
    """Return NOT_READY if a pin is still open."""
    out = make_console()
    for name in result.resolved:
        out.print(f"resolved: {escape(name)}", soft_wrap=True)
    _print_problems(result.problems)
    if result.resolved:
        out.print(f"next: render the plan into {escape(result.folder)} again, which keeps the pins", soft_wrap=True)
    return NOT_READY if result.problems else 0


def _print_problems(problems: tuple[BundleProblem, ...]) -> None:
    out = make_console()
    for one in problems:
        out.print(f"[bold]{escape(one.subject)}[/]: {escape(one.problem)}", soft_wrap=True)
        if one.command:
            print_indented(out, escape(one.command))


def print_check(result: BundleCheck) -> int:
    """Return NOT_READY if the bundle has a problem."""
    out = make_console()
    _print_problems(result.problems)
    for note in result.notes:
        out.print(f"note: {escape(note)}", soft_wrap=True)
    if not result.problems:
        out.print(f"{escape(result.folder)} is ready: option {escape(result.option)} for {escape(result.target)}")
    return NOT_READY if result.problems else 0


def print_drift(report: DriftReport) -> int:
    """Return NOT_READY if the state differs from the bundle."""
    out = make_console()
    for finding in report.findings:
        field = f": {finding.field}" if finding.field else ""
        out.print(f"{finding.code} [bold]{escape(finding.subject)}[/]{escape(field)}", soft_wrap=True)
        if finding.field:
            print_indented(out, f"bundle: {escape(finding.expected) or '(not stated)'}")
            print_indented(out, f"state: {escape(finding.found) or '(not there)'}")
    if not report.findings:
        out.print(f"no drift: {report.compared} of {escape(report.of)} as in {escape(report.folder)}", soft_wrap=True)
    return NOT_READY if report.findings else 0
