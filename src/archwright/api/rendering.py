"""Files of a plan for a target: `render`, `verify`, and `diff` of a bundle."""

import difflib
import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from archwright import __version__, settings
from archwright.catalog.load import load_catalog
from archwright.contract.plan import Plan
from archwright.contract.record import Record
from archwright.deploy.render import find_target, render_bundle, select_option
from archwright.deploy.rendering.bundle import (
    MANIFEST,
    BundleManifest,
    FileBundle,
    check_folder,
    read_manifest,
    read_pins,
    write_bundle,
)
from archwright.deploy.rendering.components import Pins, list_age_notes, list_open_pins
from archwright.errors import ErrorLocation, PlanFileError
from archwright.home import locate_home
from archwright.plan.explain.diff import PlanDiff, diff_plans
from archwright.plan.plan_file import read_plan


class RenderResult(Record):
    """`open_pins`: images and models whose digests are not resolved. `notes`: what a user must know before use."""

    folder: str
    target: str
    option: str
    files: int
    open_pins: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class BundleProblem(Record):
    """One reason why a bundle is not ready to apply: `command` shows or repairs it."""

    subject: str
    problem: str
    command: str = ""


class BundleCheck(Record):
    folder: str
    target: str
    option: str
    problems: tuple[BundleProblem, ...]
    notes: tuple[str, ...] = ()


class FileChange(Record):
    """A file that a new plan changes. `change`: added, removed or changed; `lines`: a unified difference."""

    path: str
    change: str
    lines: tuple[str, ...] = ()


class BundleDiff(Record):
    folder: str
    target: str
    before: str
    after: str
    changes: tuple[FileChange, ...]


def render(
    plan: str, *, target: str, output: str, option: str | None = None, environment: str | None = None
) -> RenderResult:
    """Write the files that bring an option of a plan up on a target, into the folder `output`.

    `option`: default the chosen one, else the cheapest that the target can render. Digests that a user filled into
    pins.json of the folder are kept. `environment`: its namespaces, clusters, buckets and states have names of their
    own; default the only environment of the plan.

    Raises UsageError AW-USE-76 (no such target), -77 (no such option), -98 (an environment that cannot be), -02 (the
    folder holds other files), PlanError
    AW-PLAN-22 (no option for this target), PlanFileError for a broken plan.
    """
    folder = Path(output)
    check_folder(folder)
    made = read_plan(Path(plan))
    bundle = _render(made, plan, target, option, folder, environment or "")
    write_bundle(bundle, folder, __version__)
    return RenderResult(
        folder=output,
        target=bundle.target,
        option=bundle.option,
        files=len(bundle.files),
        open_pins=tuple(pin.subject for pin in list_open_pins(bundle.pins)),
        notes=(*_list_option_notes(made, bundle.option), *_list_age_notes(bundle.components)),
    )


def _list_option_notes(plan: Plan, name: str) -> Iterator[str]:
    option = next(one for one in plan.options if one.name == name)
    if not option.feasible:
        missed = ", ".join(dict.fromkeys(miss.constraint for miss in option.misses))
        yield f"option {name} does not satisfy the needs; it misses {missed}"
    elif name != plan.chosen:
        yield f"the plan chose {plan.chosen or 'no option'}, so option {name} has no predictions beyond its limits"


def _render(plan: Plan, file: str, target: str, option: str | None, folder: Path, environment: str) -> FileBundle:
    """Return the bundle of a plan that was read from `file`."""
    row, catalog = find_target(target, environment), load_catalog(locate_home(settings.load()))
    chosen = select_option(plan, row, option, file)
    return render_bundle(plan, chosen, row, catalog, read_pins(folder), __version__)


def verify(folder: str) -> BundleCheck:
    """Check that a bundle can be applied: every digest is resolved, and every file is as it was rendered.

    Raises PlanFileError AW-FILE-13 if the folder is no bundle; the result has the problems otherwise.
    """
    path = Path(folder)
    manifest = read_bundle(path)
    problems = [*list_pin_problems(read_pins(path)), *_list_edited_files(path, manifest)]
    return BundleCheck(
        folder=folder,
        target=manifest.target,
        option=manifest.option,
        problems=tuple(problems),
        notes=_list_age_notes(manifest.components),
    )


def read_bundle(folder: Path) -> BundleManifest:
    """Raises PlanFileError AW-FILE-13 if the folder is no bundle."""
    manifest = read_manifest(folder)
    if manifest is None:
        hint = "render one: archwright render plan.json --target NAME -o DIR"
        message = f"{folder} has no {MANIFEST}, so it is no bundle"
        raise PlanFileError("AW-FILE-13", message, where=ErrorLocation(str(folder)), hint=hint)
    return manifest


def list_pin_problems(pins: Pins) -> list[BundleProblem]:
    found = list_open_pins(pins)
    return [BundleProblem(subject=pin.subject, problem=pin.problem, command=pin.command) for pin in found]


def _list_edited_files(folder: Path, manifest: BundleManifest) -> list[BundleProblem]:
    found = []
    for name, digest in sorted(manifest.files.items()):
        path = folder / name
        if not path.is_file():
            found.append(BundleProblem(subject=name, problem="the file is missing"))
        elif hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            found.append(BundleProblem(subject=name, problem="the file was edited after it was rendered"))
    return found


def _list_age_notes(components: dict[str, str]) -> tuple[str, ...]:
    rows = load_catalog(locate_home(settings.load())).components
    return list_age_notes(components, rows, datetime.now(UTC).date())


def diff(before: str, after: str) -> PlanDiff | BundleDiff:
    """Return the differences of two plan files and their causes: the needs, the catalog, or this machine.

    If `before` is the folder of a bundle, return what the plan `after` changes in its files, with the same target.
    """
    if Path(before).is_dir():
        return _diff_bundle(before, after)
    return diff_plans(read_plan(Path(before)), read_plan(Path(after)))


def _diff_bundle(folder: str, plan: str) -> BundleDiff:
    path = Path(folder)
    manifest = read_bundle(path)
    bundle = _render(read_plan(Path(plan)), plan, manifest.target, manifest.option, path, manifest.environment)
    changes = []
    for name in sorted({*manifest.files, *bundle.files}):
        before = (path / name).read_bytes().decode(errors="replace") if (path / name).is_file() else ""
        after = bundle.files[name].text if name in bundle.files else ""
        if before != after:
            change = "added" if not before else "removed" if name not in bundle.files else "changed"
            lines = difflib.unified_diff(before.splitlines(), after.splitlines(), name, name, lineterm="")
            changes.append(FileChange(path=name, change=change, lines=tuple(lines)))
    return BundleDiff(
        folder=folder,
        target=manifest.target,
        before=manifest.plan_digest,
        after=bundle.plan_digest,
        changes=tuple(changes),
    )
