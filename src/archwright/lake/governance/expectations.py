"""Expectations of a data set: checks of a draft version, which block its commit.

They stand in a file or recipe as a list of rules and stay with the data set: each version stores them with its measured
figures, and the next version is checked by them again. The rows are read once, as Arrow batches.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec

from archwright import specfile
from archwright.contract.lineage import DatasetVersion, Expectation, ExpectationResult, ExpectedValue
from archwright.contract.record import Record, replace
from archwright.errors import DataError, ErrorLocation
from archwright.home import Home
from archwright.lake.formats.column_kinds import COLUMN_TYPES, SYSTEM_COLUMNS
from archwright.lake.governance import distribution_shift
from archwright.lake.governance.distribution_shift import ValueCounts
from archwright.lake.lazy_modules import np, pa, pc
from archwright.lake.tables.iceberg_tables import read_batches

DAY_S = 86_400
SHOWN_ROWS = 3
_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
_RowCount = Annotated[int, msgspec.Meta(ge=0)]


class ExpectationRule(Record, omit_defaults=True):
    """One item of the list: `column` (or `columns`, for `unique`) and the checks of it; row counts need no column.

    `not-null`: the least share of values that are not null. `max-age-days`: of the newest value, or without a column
    of the newest ingested file. `max-shift`: the largest distance from the last version beyond what chance explains.
    """

    column: str = ""
    columns: tuple[str, ...] = ()
    kind: str | None = None
    min: int | float | str | None = None
    max: int | float | str | None = None
    values: tuple[ExpectedValue, ...] | None = None
    pattern: str | None = None
    not_null: _Share | None = msgspec.field(name="not-null", default=None)
    unique: bool | None = None
    max_age_days: float | None = msgspec.field(name="max-age-days", default=None)
    max_shift: _Share | None = msgspec.field(name="max-shift", default=None)
    min_rows: _RowCount | None = msgspec.field(name="min-rows", default=None)
    max_rows: _RowCount | None = msgspec.field(name="max-rows", default=None)


class ExpectationFile(Record):
    expectations: tuple[ExpectationRule, ...]


def read_expectations(path: Path) -> tuple[Expectation, ...]:
    """Raises DataError AW-DATA-50."""

    def refuse(message: str, where: ErrorLocation) -> DataError:
        hint = "write expectations: a list such as {column: age, min: 0, max: 130, not-null: 0.99}"
        return DataError("AW-DATA-50", message, where=where, hint=hint)

    return list_expectations(specfile.read_spec(path, ExpectationFile, refuse).expectations)


def list_expectations(rules: Sequence[ExpectationRule]) -> tuple[Expectation, ...]:
    """The single checks of the rules. Raises DataError AW-DATA-50 for a rule without a check, or without a column."""
    found = []
    for place, rule in enumerate(rules):
        stated: dict[str, Any] = msgspec.to_builtins(rule)
        columns = (*filter(None, (stated.pop("column", ""),)), *stated.pop("columns", ()))
        field = f"expectations[{place}]"
        if not stated:
            raise _rule_error("the rule has no check", field, "add a check such as not-null: 1")
        for check, bound in stated.items():
            most = 0 if check.endswith("-rows") else len(columns) if check == "unique" else 1
            if len(columns) > most or (not columns and check not in ("min-rows", "max-rows", "max-age-days")):
                raise _rule_error(f"{check} checks {most or 'no'} column, not {len(columns)}", field, "name one column")
            if check == "kind" and bound not in COLUMN_TYPES:
                raise _rule_error(f"{bound!r} is no kind of column", field, f"use one of {', '.join(COLUMN_TYPES)}")
            if bound is not False:
                bound = tuple(bound) if isinstance(bound, list) else bound
                found.append(Expectation(check=check, columns=columns, bound=bound))
    return tuple(found)


def _rule_error(message: str, field: str, hint: str) -> DataError:
    return DataError("AW-DATA-50", message, where=ErrorLocation(field=field), hint=hint)


def choose_expectations(
    stated: tuple[Expectation, ...] | None, previous: DatasetVersion | None
) -> tuple[Expectation, ...]:
    """The stated expectations, by default those of the version before."""
    if stated is None and previous is not None:
        return tuple(Expectation(check=e.check, columns=e.columns, bound=e.bound) for e in previous.expectations)
    return stated or ()


class DraftState(NamedTuple):
    """The version of a draft with written data files; `newest_file_at`: the time of its newest source file."""

    home: Home
    version: DatasetVersion
    previous: DatasetVersion | None
    newest_file_at: float | None = None


class _Outcome(NamedTuple):
    """`rows` are the numbers of the first rows that fail, of `failing` rows."""

    passed: bool
    measured: float | str
    failing: int = 0
    rows: Sequence[int] = ()


def check_expectations(draft: DraftState, expectations: Sequence[Expectation]) -> DatasetVersion:
    """The version with its results. Raises DataError AW-DATA-51 with every failure, AW-DATA-50 for an unusable rule."""
    version = draft.version
    checks = [_build_check(draft, expected) for expected in expectations]
    columns = dict.fromkeys(name for check in checks for name in check.columns)
    start = 0
    for batch in read_batches(draft.home, version, tuple(columns)) if columns else ():
        for check in checks:
            if check.columns:
                check.add([batch.column(name) for name in check.columns], start)
        start += batch.num_rows
    outcomes = [check.finish() for check in checks]
    failed = [pair for pair in zip(expectations, outcomes, strict=True) if not pair[1].passed]
    if failed:
        places = _find_places(draft, {row for _, outcome in failed for row in outcome.rows})
        lines = [_format_failure(expected, outcome, places) for expected, outcome in failed]
        head = f"{len(failed)} of {len(checks)} expectations failed, so {version.id} was not created"
        hint = "correct the data, or state other expectations; nothing was changed"
        where = ErrorLocation(field=version.dataset)
        raise DataError("AW-DATA-51", "\n  ".join([f"{head}:", *lines]), where=where, hint=hint)
    results = [
        ExpectationResult(check=e.check, columns=e.columns, bound=e.bound, measured=outcome.measured)
        for e, outcome in zip(expectations, outcomes, strict=True)
    ]
    return replace(version, expectations=tuple(results))


def _find_places(draft: DraftState, rows: set[int]) -> dict[int, str]:
    """Number of a row -> its file and row; values are not shown, because they may be personal."""
    found, start = {}, 0
    for batch in read_batches(draft.home, draft.version, ("source_file", "source_row")) if rows else ():
        for row in [row for row in rows if start <= row < start + batch.num_rows]:
            values = batch.slice(row - start, 1).to_pylist()[0]
            found[row] = f"{values['source_file']}:{values['source_row']}"
        start += batch.num_rows
    return found


def _format_failure(expected: Expectation, outcome: _Outcome, places: dict[int, str]) -> str:
    name = f"{', '.join(expected.columns) or 'the data set'}: {expected.check} {format_bound(expected.bound)}"
    if not outcome.failing:
        return f"{name}, measured {format_bound(outcome.measured)}"
    count = "1 row fails" if outcome.failing == 1 else f"{outcome.failing:,} rows fail"
    return f"{name}, {count}, such as {', '.join(places[row] for row in outcome.rows)}"


def format_bound(bound: object) -> str:
    if isinstance(bound, tuple):
        return ", ".join(map(format_bound, bound))
    return f"{bound:.6g}" if isinstance(bound, float) else str(bound)


class _Check:
    """A check that needs no rows: its outcome is known from the record of the version."""

    columns: tuple[str, ...] = ()

    def __init__(self, outcome: _Outcome) -> None:
        self._outcome = outcome

    def add(self, arrays: Sequence[Any], start: int) -> None:
        """Take the values of `columns` in the rows from number `start` on."""

    def finish(self) -> _Outcome:
        return self._outcome


def _build_check(draft: DraftState, expected: Expectation) -> _Check:
    version, check, bound = draft.version, expected.check, expected.bound
    known = {name: kind for name, kind in version.columns.items() if name not in SYSTEM_COLUMNS}
    if unknown := [name for name in expected.columns if name not in known]:
        return _Check(_Outcome(False, f"there is no column {unknown[0]}"))
    kind = known[expected.columns[0]] if expected.columns else ""
    if check == "kind":
        return _Check(_Outcome(kind == bound, kind))
    if check in ("min-rows", "max-rows"):
        within = version.rows >= int(str(bound)) if check == "min-rows" else version.rows <= int(str(bound))
        return _Check(_Outcome(within, version.rows))
    if check == "max-age-days" and not expected.columns:
        newest = draft.newest_file_at
        age = "no file with a time" if newest is None else (version.at - newest) / DAY_S
        return _Check(_Outcome(not isinstance(age, str) and age <= float(str(bound)), age))
    if check == "unique":
        return _UniqueCheck(expected.columns)
    if check == "max-age-days":
        return _AgeCheck(expected, kind, version.at)
    return _ShiftCheck(draft, expected, kind) if check == "max-shift" else _RowCheck(expected, kind)


def _unusable(expected: Expectation, kind: str) -> DataError:
    message = f"{expected.check} {expected.bound!r} cannot check the column {expected.columns[0]} of kind {kind}"
    return _rule_error(message, expected.columns[0], "use a bound of the kind of the column, or remove the check")


_MEETS: dict[str, Callable[[Any, Any], Any]] = {
    "min": lambda array, bound: pc.greater_equal(array, bound),
    "max": lambda array, bound: pc.less_equal(array, bound),
    "values": lambda array, bound: pc.or_(pc.is_in(array, bound), array.is_null()),
    "pattern": lambda array, bound: pc.match_substring_regex(array, rf"\A(?:{bound})\z"),
    "not-null": lambda array, _bound: pc.invert(array.is_null(nan_is_null=True)),
}


class _RowCheck(_Check):
    """Counts the rows that fail; a null fails only `not-null`, a NaN every limit."""

    def __init__(self, expected: Expectation, kind: str) -> None:
        self.columns = expected.columns
        self._expected, self._kind = expected, kind
        self._least = float(str(expected.bound)) if expected.check == "not-null" else 1.0
        self._total = self._failing = 0
        self._rows: list[int] = []

    def add(self, arrays: Sequence[Any], start: int) -> None:
        (array,) = arrays
        bound: Any = self._expected.bound
        try:
            if self._expected.check == "values":
                bound = pa.array(bound).cast(array.type)
            elif isinstance(bound, str) and self._expected.check != "pattern":
                bound = pa.scalar(bound).cast(array.type)
            failing = pc.invert(pc.fill_null(_MEETS[self._expected.check](array, bound), True))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
            raise _unusable(self._expected, self._kind) from error
        rows = pc.indices_nonzero(failing)
        self._total += len(array)
        self._failing += len(rows)
        self._rows += [start + row for row in rows[: SHOWN_ROWS - len(self._rows)].to_pylist()]

    def finish(self) -> _Outcome:
        share = 1 - self._failing / max(1, self._total)
        return _Outcome(share >= self._least, share, self._failing, self._rows)


class _UniqueCheck(_Check):
    """Collects the values of its columns, so memory grows with them. A row with a null is no duplicate."""

    def __init__(self, columns: tuple[str, ...]) -> None:
        self.columns = columns
        self._parts: list[Any] = []

    def add(self, arrays: Sequence[Any], start: int) -> None:
        numbers = pa.array(np.arange(start, start + len(arrays[0])))
        table = pa.table([*arrays, numbers], names=[*map(str, range(len(arrays))), "row"])
        self._parts.append(table.drop_null())

    def finish(self) -> _Outcome:
        if not self._parts:
            return _Outcome(True, 0)
        table = pa.concat_tables(self._parts)
        counted = table.group_by(table.column_names[:-1]).aggregate([("row", "count"), ("row", "max")])
        repeated = counted.filter(pc.greater(counted["row_count"], 1))
        rows = sorted(repeated["row_max"].to_pylist())[:SHOWN_ROWS]
        failing = table.num_rows - counted.num_rows
        return _Outcome(not failing, failing, failing, rows)


class _AgeCheck(_Check):
    """The age of the newest value in days."""

    def __init__(self, expected: Expectation, kind: str, now: float) -> None:
        if kind not in ("timestamp", "timestamp-utc", "date", "text"):
            raise _unusable(expected, kind)
        self.columns, self._expected = expected.columns, expected
        self._most, self._now = float(str(expected.bound)), now
        self._newest: float | None = None

    def add(self, arrays: Sequence[Any], start: int) -> None:
        newest = pc.max(self._list_times(arrays[0]).cast(pa.int64())).as_py()
        if newest is not None:
            self._newest = max(newest / 1e6, self._newest or newest / 1e6)

    def finish(self) -> _Outcome:
        if self._newest is None:
            return _Outcome(False, "no value")
        age = (self._now - self._newest) / DAY_S
        return _Outcome(age <= self._most, age)

    def _list_times(self, array: Any) -> Any:
        """Times in UTC. Texts are dates and times of ISO 8601, all with a zone or all without."""
        with suppress(pa.ArrowInvalid):
            return array.cast(pa.timestamp("us"))
        try:
            return array.cast(pa.timestamp("us", "UTC"))
        except pa.ArrowInvalid as error:
            raise _unusable(self._expected, "text, which holds no times of ISO 8601") from error


class _ShiftCheck(_Check):
    """The distance from the version before; 0 for a first version."""

    def __init__(self, draft: DraftState, expected: Expectation, kind: str) -> None:
        if kind not in distribution_shift.KINDS:
            raise _unusable(expected, kind)
        self.columns = expected.columns
        self._expected, self._kind = expected, kind
        self._before: ValueCounts | None = None
        if draft.previous is not None and draft.previous.columns.get(expected.columns[0]) == kind:
            self._before = ValueCounts(kind)
            for batch in read_batches(draft.home, draft.previous, expected.columns):
                self._before.add(batch.column(0))
        self._counts = ValueCounts(kind, self._before)

    def add(self, arrays: Sequence[Any], start: int) -> None:
        if self._before is not None:
            self._counts.add(arrays[0])

    def finish(self) -> _Outcome:
        if self._before is None:
            return _Outcome(True, 0.0)
        if self._counts.is_overfull or self._before.is_overfull:
            raise _unusable(self._expected, f"{self._kind} with more than 10,000 different values")
        shift = self._counts.measure_shift(self._before)
        return _Outcome(shift <= float(str(self._expected.bound)), shift)
