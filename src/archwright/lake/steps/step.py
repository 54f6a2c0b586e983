"""The contract of a recipe's step.

A step is a record: its fields are its options in the recipe. `prepare` returns a picklable worker, which a process or a
node of a cluster runs on parts of the data set. A part is the rows of one data file, in order.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self, cast, runtime_checkable

from archwright.contract.record import Record
from archwright.home import Home
from archwright.store import Store

Rows = Iterator[Any]
"""Arrow record batches with the columns of the data set; `record_id` is 16 bytes."""


class StepSources(NamedTuple):
    """The inputs of `Step.prepare`: the `columns` (name to kind) of the rows, the `tenant` that owns the data set."""

    home: Home
    store: Store
    columns: dict[str, str]
    tenant: str = ""


class StepContext(Protocol):
    """Receives what a step decides about the rows of a part; `decision` is that of a `SurveyedWorker`."""

    decision: Any

    def drop_rows(
        self,
        rows: Any,
        reason: str | Sequence[str],
        kept: Sequence[bytes | None] | None = None,
        similarity: Sequence[float | None] | None = None,
    ) -> None:
        """Record that the batch `rows` is left out.

        The `reason` is one for all rows, or one per row; there must be few different ones, since they are counted.
        `kept` is the record that a duplicate repeats, `similarity` how much of it (0 to 1).
        """

    def count_changes(self, kind: str, number: int) -> None:
        """Count altered values of a kind, for example ("email", 3)."""


class StepWorker(Protocol):
    """Works on the rows of a part. It is picklable, and has no state that outlives a part."""

    def process_rows(self, rows: Rows, context: StepContext) -> Rows:
        """Yield the rows that stay, with the columns of `Step.output_columns`, in order."""


@runtime_checkable
class SurveyedWorker(StepWorker, Protocol):
    """A worker whose decisions need all rows: `survey_count` times all parts are read, then the rows are processed.

    Pass `number` calls `survey_rows` for each part on any machine, and `decide` once with the results in the order of
    the parts. Both return an Arrow table; the last one is the `decision` of `process_rows`.
    """

    survey_count: int

    def survey_rows(self, number: int, rows: Rows, decision: Any) -> Any: ...

    def decide(self, number: int, surveys: Iterator[Any], decision: Any) -> Any: ...


class Step(Record):
    """A step as the recipe states it."""

    def locate(self, folder: Path) -> Self:
        """The step with the paths and contents of files that the recipe names relative to `folder`."""
        return self

    def output_columns(self, columns: dict[str, str]) -> dict[str, str]:
        """The columns (name to kind) after the step. Raises DataError AW-DATA-22 for an unsuitable column."""
        return columns

    def prepare(self, sources: StepSources) -> StepWorker:
        """Read what the worker needs: a key of the home, another data set, a model. By default it needs nothing."""
        return cast(StepWorker, self)
