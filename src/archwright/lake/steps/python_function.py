"""The step that calls a function of the user: rows in, rows out, as dictionaries."""

import types
from collections.abc import Iterable, Iterator
from importlib.abc import InspectLoader
from importlib.util import spec_from_loader
from pathlib import Path
from typing import Any, Self

from archwright.contract.record import replace
from archwright.errors import DataError, ErrorLocation, from_os_error
from archwright.lake.formats import column_names
from archwright.lake.formats.column_kinds import COLUMN_TYPES, SYSTEM_COLUMNS, arrow_schema, kind_of_arrow_type
from archwright.lake.lazy_modules import pa, pc
from archwright.lake.steps.step import Rows, Step, StepContext

ID = "record_id"


class _RecipeSource(InspectLoader):
    """Loads a module from the source in the recipe: the file need not exist where the step runs."""

    def __init__(self, source: str) -> None:
        self._source = source

    def get_source(self, fullname: str) -> str:
        return self._source


class PythonFunction(Step):
    """Call `function` of `file` for each batch: it receives rows and yields the rows that stay, changed or not.

    The function is a generator over dictionaries, `def clean(rows): for row in rows: ... yield row`. `adds` names new
    columns with their kinds. A row that is not yielded is dropped. The source of the file is part of the recipe, so a
    changed function makes a new version. It runs with the rights of the user who runs the recipe.
    """

    file: str
    function: str
    adds: dict[str, str] = {}
    source: str = ""

    def locate(self, folder: Path) -> Self:
        try:
            return replace(self, source=(folder / self.file).read_text(encoding="utf-8"))
        except OSError as error:
            raise from_os_error(error) from error
        except UnicodeDecodeError as error:
            raise self._error("the file is not UTF-8 text", "save the file as UTF-8") from error

    def output_columns(self, columns: dict[str, str]) -> dict[str, str]:
        column_names.check_column_names(self.adds, self.file)
        unknown = [kind for kind in self.adds.values() if kind not in COLUMN_TYPES or kind == "id"]
        if unknown:
            kinds = ", ".join(kind for kind in COLUMN_TYPES if kind != "id")
            raise self._error(f"there is no column kind {unknown[0]!r}", f"choose one of: {kinds}")
        return {**columns, **self.adds}

    def process_rows(self, rows: Rows, context: StepContext) -> Rows:
        work = self._load_function()
        for batch in rows:
            kinds = {field.name: kind_of_arrow_type(field.type) for field in batch.schema}
            schema = arrow_schema({**kinds, **self.adds})
            given = {row[ID]: row for row in batch.to_pylist()}
            made = self._call(work, [dict(row) for row in given.values()])
            chosen = pa.array([record in made for record in given])
            if len(made) < len(given):
                context.drop_rows(batch.filter(pc.invert(chosen)), f"not returned by {self.function}")
            stays = [made[record] for record in given if record in made]
            changed = sum(1 for row in stays if any(row.get(name) != old for name, old in given[row[ID]].items()))
            context.count_changes(self.function, changed)
            yield self._build_batch(stays, batch.filter(chosen), schema)

    def _call(self, work: Any, rows: list[dict[str, Any]]) -> dict[bytes, dict[str, Any]]:
        """The rows that the function yields, by record id."""
        ids = {row[ID] for row in rows}
        made: dict[bytes, dict[str, Any]] = {}
        for row in self._iterate(work, rows):
            if not isinstance(row, dict) or row.get(ID) not in ids or row[ID] in made:
                message = "the function must yield rows that it received, each at most once, with their record_id"
                raise self._error(message, "change the row in place and yield it; use a step of its own to split rows")
            made[row[ID]] = row
        return made

    def _iterate(self, work: Any, rows: list[dict[str, Any]]) -> Iterator[Any]:
        made: Iterable[Any] = work(iter(rows))
        iterator = iter(made if made is not None else ())
        while True:
            try:
                row = next(iterator)
            except StopIteration:
                return
            except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
                message = f"{self.function} failed: {type(error).__name__}: {error}"
                raise self._error(message, "correct the function; complete parts of this run remain") from error
            yield row

    def _build_batch(self, rows: list[dict[str, Any]], before: Any, schema: Any) -> Any:
        arrays = []
        for field in schema:
            if field.name in SYSTEM_COLUMNS:
                arrays.append(before.column(field.name))
                continue
            try:
                arrays.append(pa.array([row.get(field.name) for row in rows], field.type))
            except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                message = f"{self.function} gave a value of another kind in the column {field.name!r}"
                raise self._error(message, f"return values of the kind {field.type}") from error
        return pa.RecordBatch.from_arrays(arrays, schema=schema)

    def _load_function(self) -> Any:
        module = types.ModuleType(Path(self.file).stem)
        loader = _RecipeSource(self.source)
        module.__spec__ = spec_from_loader(module.__name__, loader)
        try:
            loader.exec_module(module)
        except (SyntaxError, ImportError, NameError) as error:
            raise self._error(f"the file cannot be loaded: {error}", "correct the file") from error
        work = getattr(module, self.function, None)
        if not callable(work):
            raise self._error(f"the file has no function {self.function!r}", "name a function of the file")
        return work

    def _error(self, message: str, hint: str) -> DataError:
        return DataError("AW-DATA-64", message, where=ErrorLocation(self.file, None, self.function), hint=hint)
