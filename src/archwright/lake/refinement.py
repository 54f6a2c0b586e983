"""Refine a version into a version of another data set by a recipe, and record drops and changes.

The same recipe on the same version returns the existing version. A record keeps its id, so a row can be traced from
its file to the training set; altered values are part of the version's content digest.
"""

import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from archwright.contract.lineage import DatasetVersion, TokenShard
from archwright.errors import DataError, ErrorLocation
from archwright.home import Home
from archwright.lake import recipe
from archwright.lake.governance.expectations import (
    DraftState,
    check_expectations,
    choose_expectations,
    list_expectations,
)
from archwright.lake.governance.policy import check_location
from archwright.lake.ingestion import check_dataset_name
from archwright.lake.part_files import read_part
from archwright.lake.part_runner import Stage, run_steps, sum_counts
from archwright.lake.steps import token_shards
from archwright.lake.tables import version_index
from archwright.lake.tables.dataset_lock import lock_dataset
from archwright.lake.tables.iceberg_tables import TableChange, draft_version, list_data_files
from archwright.lake.tables.rejects_file import open_rejects_file
from archwright.lake.tables.value_digest import ValueDigest, combine_parts
from archwright.lake.task_pool import Runner, TaskPool, open_pool
from archwright.store import Store


class RefineResult(NamedTuple):
    """`new` is False if the recipe was applied to this version before."""

    version: DatasetVersion
    new: bool


class RefineRequest(NamedTuple):
    """`country` of the home: alpha-2, "" if unknown."""

    recipe: recipe.Recipe
    runner: Runner = "native"
    now: Callable[[], float] = time.time
    country: str = ""


def drops_path(home: Home, dataset: str, version: int) -> Path:
    return home.folder("lake", "drops", dataset) / f"v{version}.jsonl"


def refine_dataset(home: Home, store: Store, request: RefineRequest) -> RefineResult:
    """Raises DataError AW-DATA-10 (no such source), -23 (invalid target), -24 (no row left), -48 (residency), -51."""
    wanted = request.recipe
    check_dataset_name(wanted.into)
    source = version_index.find_version(store, wanted.source)
    if source.dataset == wanted.into:
        raise _target_conflict_error(wanted.into, "a recipe cannot refine a data set into itself")
    check_location(store, wanted.into, request.country, (source.dataset,))
    with lock_dataset(home, wanted.into):
        version_index.repair_index(home, store, wanted.into)
        previous = version_index.newest_version(store, wanted.into)
        if previous is not None and previous.action != "refine":
            message = f"{previous.id} was ingested from files, so a recipe cannot write into it"
            raise _target_conflict_error(wanted.into, message)
        text = recipe.encode_steps(wanted)
        stated = None if wanted.expectations is None else list_expectations(wanted.expectations)
        for version in store.rows(version_index.VERSIONS, {"dataset": wanted.into}):
            checked = stated is None or stated == choose_expectations(None, version)
            if (version.parent, version.recipe) == (source.id, text) and checked and version.dropped_at is None:
                return RefineResult(version, False)
        version = _refine_source(home, store, request, source, previous)
        version_index.register_version(home, store, version)
        return RefineResult(version, True)


def _target_conflict_error(name: str, message: str) -> DataError:
    hint = "choose another name for `into`"
    return DataError("AW-DATA-23", message, where=ErrorLocation(None, None, name), hint=hint)


def work_folder(home: Home, dataset: str) -> Path:
    """The complete parts of a refinement that has not ended: the next run of the same recipe goes on there."""
    return home.lake / "work" / dataset


def shards_folder(home: Home, version: DatasetVersion) -> Path:
    return home.lake / "shards" / version.id


def _refine_source(
    home: Home, store: Store, request: RefineRequest, source: DatasetVersion, previous: DatasetVersion | None
) -> DatasetVersion:
    wanted = request.recipe
    prepared = recipe.prepare_steps(wanted, home, store, source)
    spec = wanted.token_shards
    tokeniser = token_shards.prepare_tokeniser(home, spec, prepared[-1].columns) if spec else None
    folder = work_folder(home, wanted.into) / recipe.digest_work(source, wanted, prepared)
    for other in work_folder(home, wanted.into).glob("*"):
        if other != folder:
            shutil.rmtree(other)  # of a recipe or source that has changed since
    folder.mkdir(parents=True, exist_ok=True)
    parts = tuple(list_data_files(home, source))
    with open_pool(home, request.runner, sum(part.stat().st_size for part in parts)) as pool:
        stages = run_steps(pool, folder, Stage(parts, source.columns), prepared)
        shards = _write_shards(pool, spec, tokeniser, stages[-1].parts, folder) if spec and tokeniser else ()
    number = version_index.next_number(store, wanted.into)
    version = _write_version(home, request, source, previous, _Refined(stages, shards, folder, number))
    shutil.rmtree(work_folder(home, wanted.into))
    return version


class _Refined(NamedTuple):
    """The complete parts of each stage, and the shards of tokens, in the work folder, for version `number`."""

    stages: list[Stage]
    shards: tuple[TokenShard, ...]
    folder: Path
    number: int


def _write_shards(
    pool: TaskPool, spec: token_shards.TokenShards, tokeniser: Path, parts: Iterable[Path], folder: Path
) -> tuple[TokenShard, ...]:
    place = folder / "shards"
    place.mkdir(exist_ok=True)
    tasks = [
        token_shards.ShardTask(part, spec.column, tokeniser, spec.end, spec.length, place / f"{number:06d}.bin")
        for number, part in enumerate(parts)
    ]
    return tuple(pool.map(token_shards.write_shard, tasks))


def _write_version(
    home: Home,
    request: RefineRequest,
    source: DatasetVersion,
    previous: DatasetVersion | None,
    made: _Refined,
) -> DatasetVersion:
    number = made.number
    columns = made.stages[-1].columns
    results = [result for stage in made.stages for result in stage.results]
    drops = sum_counts(result.drops for result in results)
    if not any(result.rows for result in made.stages[-1].results):
        message = f"no row is left: {', '.join(f'{count} {reason}' for reason, count in drops.items())}"
        hint = "relax the steps of the recipe; nothing was changed"
        raise DataError("AW-DATA-24", message, where=ErrorLocation(None, None, source.id), hint=hint)
    before = previous.data_files if previous else ()
    change = TableChange(dataset=request.recipe.into, version=number, columns=columns, rewrite=True, before=before)
    digests: list[str] = []
    with open_rejects_file(drops_path(home, change.dataset, number)) as rejects, draft_version(home, change) as draft:
        for part in made.stages[-1].parts:
            values = ValueDigest()
            for batch in read_part(part, columns):
                draft.writer.write(batch)
                values.add(batch)
            draft.writer.end_part()
            digests.append(values.hexdigest())
        for part in (part for stage in made.stages[1:] for part in stage.parts):
            with open(part.with_suffix(".drops"), "rb") as lines:
                shutil.copyfileobj(lines, rejects.file)
        digest = combine_parts(digests)
        files = draft.stage(digest)
        version = DatasetVersion(
            id=f"{change.dataset}@v{number}",
            dataset=change.dataset,
            version=number,
            at=request.now(),
            action="refine",
            parent=source.id,
            rows=sum(result.rows for result in made.stages[-1].results),
            size_bytes=sum(file.size_bytes for file in files),
            columns=columns,
            drops=drops,
            changes=sum_counts(result.changes for result in results),
            source_files=source.source_files,
            content_sha256=digest,
            licence=source.licence,
            recipe=recipe.encode_steps(request.recipe),
            data_files=files,
            part_sha256=tuple(digests),
            token_shards=made.shards,
        )
        rules = request.recipe.expectations
        expected = choose_expectations(None if rules is None else list_expectations(rules), previous)
        version = check_expectations(DraftState(home, version, previous), expected)
        rejects.commit()
        if made.shards:
            _place_shards(made.folder / "shards", shards_folder(home, version))
        version_index.commit_version(home, draft, version)
    return version


def _place_shards(made: Path, target: Path) -> None:
    """Put the shards beside the table; those of a writer that was killed before its commit give way."""
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(made, target, ignore=shutil.ignore_patterns("*.json"))
