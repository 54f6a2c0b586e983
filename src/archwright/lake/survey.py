"""The first pass over new files: which columns there are, of which kinds. Whatever refuses an ingest refuses it here,
before anything changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from archwright.contract.lineage import DatasetVersion
from archwright.errors import DataError, Where
from archwright.lake import columns
from archwright.lake.chunks import Broken
from archwright.lake.formats import READERS
from archwright.lake.kinds import OWN, widest
from archwright.lake.sources import Source

COLUMNS = 4096
NAME_CHARACTERS = 255


def decided(sources: Iterable[Source], previous: DatasetVersion | None) -> dict[str, str]:
    """Column -> kind of the next version, ours first. Raises DataError AW-DATA-13 to 15 for columns that cannot be."""
    votes: columns.Votes = {}
    before = {name: kind for name, kind in previous.columns.items() if name not in OWN} if previous else {}
    for name, kind in before.items():
        votes[name] = Counter({kind: previous.rows if previous else 0})
    for source in sources:
        for chunk in READERS[source.format](source, _ignored):
            columns.vote(chunk, votes)
            _check(votes, source)
    kinds = {name: _kept(before.get(name), columns.decide(counted)) for name, counted in votes.items()}
    return {**OWN, **kinds}


def _ignored(broken: Broken) -> None:
    """The second pass keeps it."""


def _kept(before: str | None, now: str) -> str:
    """A column that is there only becomes wider."""
    if before is None or now == before:
        return now
    return now if widest((before, now)) == now else before


def _check(votes: columns.Votes, source: Source) -> None:
    where = Where(source.name)
    if len(votes) > COLUMNS:
        raise DataError(
            "AW-DATA-13",
            f"more than {COLUMNS} columns",
            where=where,
            hint='are the names data? put them into values: {"name": ..., "value": ...}',
        )
    for name in votes:
        if name in OWN:
            hint = "rename the column in the source; archwright gives every row these three"
            raise DataError(
                "AW-DATA-14", f"the column name {name!r} is taken", where=Where(source.name, None, name), hint=hint
            )
        if not name.strip() or len(name) > NAME_CHARACTERS or not name.isprintable():
            raise DataError(
                "AW-DATA-15",
                f"no name for a column: {name[:40]!r}",
                where=where,
                hint=f"1 to {NAME_CHARACTERS} printable characters",
            )
