"""Removes the person from shards, and brings the records of versions up to date with what was erased."""

from collections import Counter, defaultdict

import msgspec

from archwright.contract.lineage import DatasetVersion
from archwright.contract.record import replace
from archwright.home import Home
from archwright.lake import refinement
from archwright.lake.erasure.receipt import ErasureJournal
from archwright.lake.steps.token_shards import remove_documents
from archwright.lake.tables import quarantine, version_index
from archwright.lake.tables.quarantine import quarantine_path
from archwright.store import Store


def update_records(home: Home, store: Store, journal: ErasureJournal) -> None:
    """Remove tokens, count rejected rows again where some were found, and note the erasure in each version."""
    records = {bytes.fromhex(text) for text in journal.record_ids}
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for place in journal.found:
        found[place.place][place.store] = place.count
    changed: dict[str, list[DatasetVersion]] = defaultdict(list)
    for version in version_index.list_versions(store):
        changed[version.dataset].append(_update_record(home, version, journal.id, found.get(version.id, {}), records))
    for dataset, versions in changed.items():
        if versions != store.rows(version_index.VERSIONS, {"dataset": dataset}):
            rewrite = version_index.TableRewrite(dataset=dataset, versions=tuple(versions))
            version_index.apply_rewrite(home, store, rewrite)


def _update_record(
    home: Home, version: DatasetVersion, erasure: str, found: dict[str, int], records: set[bytes]
) -> DatasetVersion:
    if not found:
        return version
    version = replace(version, erasures={**version.erasures, erasure: found.get("table", 0)})
    if "quarantine" in found or "drops" in found:
        version = replace(version, drops=_count_rejects(home, version))
    if "shards" in found:
        folder = refinement.shards_folder(home, version)
        shards = (remove_documents(folder, shard, records) for shard in version.token_shards)
        version = replace(version, token_shards=tuple(shards))
    return version


def _count_rejects(home: Home, version: DatasetVersion) -> dict[str, int]:
    """The counts by reason as ingest and refinement make them; reasons of a deleted file stay."""
    counts = Counter({reason: count for reason, count in version.drops.items() if quarantine.DELETED in reason})
    for path in (
        quarantine_path(home, version.dataset, version.version),
        refinement.drops_path(home, version.dataset, version.version),
    ):
        for line in path.read_bytes().splitlines() if path.exists() else ():
            row: dict[str, object] = msgspec.json.decode(line, type=dict[str, object])
            counts[f"{row.get('step', 'quarantine')}: {row['reason']}"] += 1
    return dict(sorted(counts.items()))
