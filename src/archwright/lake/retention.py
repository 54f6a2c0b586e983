"""Retention: delete the versions that are older than the policy of their data set permits, with a log in the store.

The age of a version counts from the time it was made. The newest version is deleted too: a limit that keeps the last
copy limits nothing. The record of a deleted version stays, with its digests, counts and lineage.
"""

import shutil
from collections.abc import Callable, Sequence
from itertools import groupby
from operator import attrgetter

from archwright.contract.lineage import DatasetVersion, format_node
from archwright.contract.record import Record, as_dict
from archwright.home import Home
from archwright.lake.governance.policy import read_policy
from archwright.lake.passages.embedding import remove_embedding_cache
from archwright.lake.refinement import drops_path, shards_folder, work_folder
from archwright.lake.retrieval.index_record import index_folder
from archwright.lake.tables import version_index
from archwright.lake.tables.dataset_lock import lock_dataset
from archwright.lake.tables.table_rewriting import drop_versions
from archwright.monitor import lineage
from archwright.store import RecordTable, Store

DAY_S = 86_400


class ExpiredVersion(Record):
    """A version past its retention; `models` and `runs` were trained on it, and are not changed."""

    version: str
    dataset: str
    tenant: str
    age_days: float
    retention_days: int
    rows: int
    size_bytes: int
    models: tuple[str, ...]
    runs: tuple[str, ...]


class Deletion(ExpiredVersion):
    """The log of one deletion `at` some time."""

    at: float
    reason: str = "retention"


class RetentionReport(Record):
    expired: tuple[ExpiredVersion, ...]
    dry_run: bool = False


DELETIONS = RecordTable("dataset_deletions", Deletion, unique=("version",), index=("dataset",))


def find_expired_versions(store: Store, now: float) -> list[ExpiredVersion]:
    """The versions past the retention of their data set, by data set; a refined one has the shortest of its sources."""
    found = []
    for version in sorted(version_index.list_versions(store), key=lambda version: version.dataset):
        policy = read_policy(store, version.dataset)
        age_days = (now - version.at) / DAY_S
        if version.dropped_at is not None or policy.retention_days is None or age_days <= policy.retention_days:
            continue
        edges = lineage.read_children(store, format_node("dataset", version.id))
        uses = [edge.child.partition(":") for edge in edges]
        found.append(
            ExpiredVersion(
                version=version.id,
                dataset=version.dataset,
                tenant=policy.tenant,
                age_days=round(age_days, 3),
                retention_days=policy.retention_days,
                rows=version.rows,
                size_bytes=version.size_bytes + sum(shard.size_bytes for shard in version.token_shards),
                models=tuple(dict.fromkeys(name for kind, _, name in uses if kind == "model")),
                runs=tuple(dict.fromkeys(name for kind, _, name in uses if kind == "run")),
            )
        )
    return found


def delete_versions(
    home: Home,
    store: Store,
    expired: Sequence[ExpiredVersion],
    now: float,
    record_act: Callable[[ExpiredVersion], None],
) -> None:
    """Delete versions physically. Each is logged once, before its deletion; a killed deletion is completed next time.

    `record_act` writes the audit record of a version.
    """
    for dataset, group in groupby(expired, key=attrgetter("dataset")):
        with lock_dataset(home, dataset):
            version_index.repair_index(home, store, dataset)
            versions = []
            for one in group:
                if not store.rows(DELETIONS, {"version": one.version}):
                    record_act(one)
                    store.append(DELETIONS, [Deletion(**as_dict(one), at=now)])
                versions.append(version_index.find_version(store, one.version))
                _remove_files(home, versions[-1])
            drop_versions(home, store, dataset, [version.version for version in versions], now)


def _remove_files(home: Home, version: DatasetVersion) -> None:
    """Remove what lies beside the table: index, vectors, shards, list of drops, parts of a killed refinement."""
    for folder in (index_folder(home, version.id), shards_folder(home, version), work_folder(home, version.dataset)):
        shutil.rmtree(folder, ignore_errors=True)
    remove_embedding_cache(home)  # of all versions: its vectors are computed again when they are needed
    drops_path(home, version.dataset, version.version).unlink(missing_ok=True)
