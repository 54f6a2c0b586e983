"""plan.json: written atomically, the same bytes for the same plan; read strictly."""

import re
from pathlib import Path

import msgspec

from archwright.contract.plan import Plan
from archwright.contract.record import Record
from archwright.errors import ErrorLocation, PlanFileError
from archwright.home import write_atomic

MAX_PLAN_BYTES = 16 * 1024 * 1024
PLAN_VERSION = 1
REMAKE_HINT = "create the plan again: archwright plan needs.yaml -o plan.json"


# A top-level key of a needs file in YAML.
_NEEDS_PATTERN = re.compile(rb"^(?:workloads|organisation)\s*:", re.MULTILINE)


class _VersionHeader(msgspec.Struct):
    version: int


def encode_plan(plan: Record) -> bytes:
    """Sorted keys, two spaces, a final newline: version control then shows only real changes."""
    return msgspec.json.format(msgspec.json.encode(plan, order="sorted"), indent=2) + b"\n"


def write_plan(plan: Plan, path: Path) -> None:
    write_atomic(path, encode_plan(plan), mode=0o644)


def read_plan(path: Path) -> Plan:
    """Raises PlanFileError: AW-FILE-01 not found, -02 not JSON, -03 not a plan, -04 other version, -05 too large."""
    where = ErrorLocation(str(path))
    if not path.is_file():
        hint = "create a plan: archwright plan needs.yaml -o plan.json"
        raise PlanFileError("AW-FILE-01", "plan file not found", where=where, hint=hint)
    if path.stat().st_size > MAX_PLAN_BYTES:
        message = f"the plan file is larger than {MAX_PLAN_BYTES // 1024**2} MiB"
        raise PlanFileError("AW-FILE-05", message, where=where, hint=REMAKE_HINT)
    plan = decode_plan(path.read_bytes(), str(path))
    if plan.chosen is not None and plan.chosen not in {option.name for option in plan.options}:
        message = f"`chosen` is {plan.chosen!r}, which is not an option of the plan"
        raise _make_format_error(str(path), message, "chosen")
    return plan


def decode_plan(data: bytes, file: str) -> Plan:
    _check_version(data, file)
    try:
        return msgspec.json.decode(data, type=Plan)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at ")
        raise _make_format_error(file, message, path.strip("`").removeprefix("$").removeprefix(".") or None) from error


def _check_version(data: bytes, file: str) -> None:
    """Check malformed text and other versions first; errors about their fields would mislead."""
    try:
        data.decode()
        head = msgspec.json.decode(data, type=_VersionHeader)
    except msgspec.ValidationError as error:
        raise _make_format_error(file, str(error).partition(" - at ")[0], "version") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        text, hint = f"not valid JSON: {error}", REMAKE_HINT
        # The line of the byte named by the decoder; the last line if it names no byte (truncated file).
        found = re.search(r"(?:\(byte|position) (\d+)", str(error))
        where = ErrorLocation(file, data.count(b"\n", 0, int(found.group(1)) if found else len(data)) + 1)
        if _NEEDS_PATTERN.search(data):
            text, where = "this is a needs file, not a plan", ErrorLocation(file)
            hint = f"create a plan first: archwright plan {file} -o plan.json"
        raise PlanFileError("AW-FILE-02", text, where=where, hint=hint) from error
    except RecursionError as error:
        raise _make_format_error(file, "nested too deeply", None) from error
    if head.version != PLAN_VERSION:
        text = f"the plan has version {head.version}; this archwright reads version {PLAN_VERSION}"
        raise PlanFileError("AW-FILE-04", text, where=ErrorLocation(file, None, "version"), hint=REMAKE_HINT)


def _make_format_error(file: str, message: str, field: str | None) -> PlanFileError:
    where = ErrorLocation(file, None, field)
    return PlanFileError("AW-FILE-03", f"not a plan: {message}", where=where, hint=REMAKE_HINT)
