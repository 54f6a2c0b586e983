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
    """Print JSON; return NOT_READY if the bundle has a problem, or its state differs."""
    status = show.as_json(result)
    if isinstance(result, DriftReport) and result.findings:
        return NOT_READY
    if isinstance(result, BundleCheck | PinResolution) and result.problems:
        return NOT_READY
    return status


def print_render(result: RenderResult) -> int:
    out = make_console()
    folder = escape(result.folder)
    out.print(f"\n[bold]{result.files} files for {escape(result.target)}[/] in {folder}")
    print_indented(out, f"option: {escape(result.option)}")
    for note in result.notes:
        print_indented(out, f"note: {escape(note)}")

    command = f"archwright verify {result.folder}"
    if result.open_pins:
        names = ", ".join(result.open_pins)
        print_indented(out, f"not resolved: {escape(names)}")
        command = f"archwright resolve {result.folder}"
    print_indented(out, f"next: read {folder}/README.md, then {escape(command)}\n")
    return 0


def print_resolution(result: PinResolution) -> int:
    """Return NOT_READY if a pin is still open."""
    out = make_console()
    for name in result.resolved:
        out.print(f"resolved: {escape(name)}", soft_wrap=True)
    _print_problems(result.problems)
    if result.resolved:
        action = f"render the plan into {escape(result.folder)} again"
        out.print(f"next: {action}, which keeps the pins", soft_wrap=True)
    if result.problems:
        return NOT_READY
    return 0


def _print_problems(problems: tuple[BundleProblem, ...]) -> None:
    out = make_console()
    for problem in problems:
        subject = escape(problem.subject)
        out.print(f"[bold]{subject}[/]: {escape(problem.problem)}", soft_wrap=True)
        if problem.command:
            print_indented(out, escape(problem.command))


def print_check(result: BundleCheck) -> int:
    """Return NOT_READY if the bundle has a problem."""
    out = make_console()
    _print_problems(result.problems)
    for note in result.notes:
        out.print(f"note: {escape(note)}", soft_wrap=True)
    if result.problems:
        return NOT_READY

    option = f"option {escape(result.option)} for {escape(result.target)}"
    out.print(f"{escape(result.folder)} is ready: {option}")
    return 0


def print_drift(report: DriftReport) -> int:
    """Return NOT_READY if the state differs from the bundle."""
    out = make_console()
    if not report.findings:
        agreement = f"{report.compared} of {escape(report.of)} as in {escape(report.folder)}"
        out.print(f"no drift: {agreement}", soft_wrap=True)
        return 0

    for finding in report.findings:
        heading = f"{finding.code} [bold]{escape(finding.subject)}[/]"
        if not finding.field:
            out.print(heading, soft_wrap=True)
            continue
        out.print(f"{heading}: {escape(finding.field)}", soft_wrap=True)
        print_indented(out, f"bundle: {escape(finding.expected) or '(not stated)'}")
        print_indented(out, f"state: {escape(finding.found) or '(not there)'}")
    return NOT_READY
