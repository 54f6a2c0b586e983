"""Parts of the steps that compare all rows of a data set: surveys, the order of rows, a decision per record."""

from collections.abc import Callable, Iterable
from typing import Any

from archwright.lake.lazy_modules import np, pa, pc
from archwright.lake.steps.step import Rows, StepContext


def identify_rows(batch: Any) -> dict[str, Any]:
    """The columns of a survey that `rank_rows` needs."""
    files = batch.column("source_file").cast(pa.string()).dictionary_encode()
    return {"record_id": batch.column("record_id"), "source_file": files, "source_row": batch.column("source_row")}


def make_survey(batches: Iterable[dict[str, Any]]) -> Any:
    """A survey of a part: a table of the columns of its batches, or a table without columns for a part without rows."""
    made = [pa.RecordBatch.from_pydict(columns) for columns in batches]
    return pa.Table.from_batches(made).unify_dictionaries() if made else pa.table({})


def join_surveys(surveys: Iterable[Any]) -> Any:
    """One table of all surveys, without copying; without columns if there are no rows."""
    return pa.concat_tables([survey for survey in surveys if survey.num_columns] or [pa.table({})])


def rank_rows(survey: Any) -> Any:
    """The place of each row of a survey in the order of source file, source row and record id."""
    files = pa.concat_arrays(survey.column("source_file").unify_dictionaries().chunks)
    file_ranks = np.argsort(np.argsort(np.array(files.dictionary.to_pylist(), object)))
    rows = survey.column("source_row").to_numpy()
    order = np.lexsort((view_ids(survey.column("record_id")), rows, file_ranks[files.indices.to_numpy()]))
    return np.argsort(order)


def mark_first(order: Any, *keys: Any) -> tuple[Any, Any]:
    """For rows sorted by `keys`: which differ from the row before (a mask), and the first row equal to each."""
    new = np.ones(len(order), bool)
    new[1:] = np.logical_or.reduce([key[order[1:]] != key[order[:-1]] for key in keys])
    return new, order[np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))]


def view_ids(column: Any) -> Any:
    """A column of ids of fixed length as numpy strings: they sort like bytes, and zeros at an end still differ."""
    joined = pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column
    whole = np.frombuffer(joined.buffers()[1], f"S{joined.type.byte_width}")
    return whole[joined.offset : joined.offset + len(joined)]


def make_ids(ids: Any) -> Any:
    """The opposite of `view_ids`."""
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(ids.itemsize), len(ids), [None, pa.py_buffer(ids)])


def find_ids(sorted_ids: Any, ids: Any) -> tuple[Any, Any]:
    """Which of `ids` are among the `sorted_ids` (a mask), and their places there."""
    if not len(sorted_ids):
        return np.zeros(len(ids), bool), np.zeros(0, np.int64)
    places = np.minimum(np.searchsorted(sorted_ids, ids), len(sorted_ids) - 1)
    found = sorted_ids[places] == ids
    return found, places[found]


def make_decision(ids: Any, dropped: Any, kept: Any, similarity: Any) -> Any:
    """The table for `drop_decided`, sorted by record id; `dropped` and `kept` are places in `ids`."""
    order = np.argsort(ids[dropped])
    columns = {"record_id": make_ids(ids[dropped[order]]), "kept": make_ids(ids[kept[order]])}
    return pa.table({**columns, "similarity": pa.array(similarity[order])})


def drop_decided(rows: Rows, context: StepContext, choose_reason: Callable[[float], str]) -> Rows:
    """Drop the rows that the table `context.decision` (`make_decision`) names."""
    decision = context.decision
    dropped = view_ids(decision.column("record_id")) if len(decision) else ()
    for batch in rows:
        found, places = find_ids(dropped, view_ids(batch.column("record_id")))
        if len(places):
            taken, mask = decision.take(pa.array(places)), pa.array(found)
            similarity = taken.column("similarity").to_pylist()
            reasons = [choose_reason(value) for value in similarity]
            context.drop_rows(batch.filter(mask), reasons, taken.column("kept").to_pylist(), similarity)
            batch = batch.filter(pc.invert(mask))
        yield batch
