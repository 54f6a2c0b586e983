"""The stores of the lake that may name a person: each finds what names the person, and erases it.

`erase` may run again after a kill at any point: it looks at what is there. The records of versions are brought up to
date at the end, from the stores (`version_records`).
"""

import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import msgspec

from archwright.contract.lineage import DataFile
from archwright.errors import DataError, ErrorLocation
from archwright.home import Home, write_atomic
from archwright.lake import refinement
from archwright.lake.erasure import table_rows
from archwright.lake.erasure.file_scan import count_decoded
from archwright.lake.erasure.receipt import FoundPlace
from archwright.lake.erasure.subject import Subject
from archwright.lake.lazy_modules import np, pa, pq
from archwright.lake.passages.embedding import remove_embedding_cache
from archwright.lake.retrieval import index_record
from archwright.lake.retrieval.index_builder import remove_records
from archwright.lake.steps import token_shards
from archwright.lake.tables import data_files, source_file_list, version_index
from archwright.lake.tables.data_files import StoredFile
from archwright.lake.tables.table_rewriting import VersionChanges, rewrite_file, rewrite_versions
from archwright.store import Store

# Folders of the lake that other stores or the tables' library own.
OWNED = {"tables", "versions", "quarantine", "drops", "shards", "indexes", "locks", "erasures", "rewrites"}
LEFT_BY_KILL = ("*.part", "*.draft", ".*")  # files that a killed writer left; no writer runs during an erasure


class ErasureScope(NamedTuple):
    home: Home
    store: Store
    subject: Subject


class ErasableStore:
    """A place that may name a person: `find` yields what does, `erase` removes it and may be repeated."""

    name = ""

    def __init__(self, scope: ErasureScope) -> None:
        self._scope = scope

    def find(self) -> Iterator[FoundPlace]:
        yield from ()

    def erase(self) -> None: ...


class TableStore(ErasableStore):
    """The rows in the data files of all versions, and the names of their source files."""

    name = "table"

    def find(self) -> Iterator[FoundPlace]:
        home, store, subject = self._scope
        counts = table_rows.count_erased(home, subject)
        seen: set[Path] = set()
        for version in version_index.list_versions(store):
            files = [data_files.table_folder(home, version.dataset) / file.path for file in version.data_files]
            seen.update(files)
            if not all(map(table_rows.is_complete, files)):
                message, hint = (
                    "a data file is damaged; nothing was erased",
                    "list all damage: archwright data check; then copy the files from a restored backup: "
                    "archwright restore --into DIR",
                )
                raise DataError("AW-DATA-62", message, where=ErrorLocation(None, None, version.id), hint=hint)
            found = sum(counts[path] for path in files)
            if found:
                yield FoundPlace(store=self.name, place=version.id, count=found)
            lines = source_file_list.read_lists(home, version.dataset).get(version.version, ())
            named = sum(subject.match_text(file.path) for file in lines)
            if named:
                yield FoundPlace(store="source files", place=version.id, count=named)
        left = sum(count for path, count in counts.items() if path not in seen)
        if left:
            yield FoundPlace(store=self.name, place="files without a version", count=left)

    def erase(self) -> None:
        home, store, subject = self._scope
        counts = table_rows.count_erased(home, subject)
        datasets = dict.fromkeys(version.dataset for version in version_index.list_versions(store))
        for dataset in datasets:
            version_index.repair_index(home, store, dataset)
            folder = data_files.table_folder(home, dataset)
            lists = source_file_list.read_lists(home, dataset).values()
            names = {file.path for files in lists for file in files if subject.match_text(file.path)}
            if names or any(path.is_relative_to(folder) for path in counts):
                changes = VersionChanges(
                    rewritten=self._rewrite_files(dataset, counts),
                    renamed={name: f"erased-{uuid4().hex[:16]}" for name in names},
                )
                rewrite_versions(home, store, dataset, changes, time.time())
        for path in table_rows.count_erased(home, subject):
            path.unlink()  # of a data set whose first version was never committed
        for path in table_rows.list_table_files(home, complete=False):
            path.unlink()

    def _rewrite_files(self, dataset: str, counts: Mapping[Path, int]) -> dict[str, DataFile | None]:
        home, store, subject = self._scope
        rewritten: dict[str, DataFile | None] = {}
        for version in store.rows(version_index.VERSIONS, {"dataset": dataset}):
            for file in version.data_files:
                stored = StoredFile(data_files.table_folder(home, dataset), file, version.id)
                if stored.path in counts and file.path not in rewritten:
                    rewritten[file.path] = rewrite_file(stored, partial(table_rows.drop_erased, subject=subject))
        return rewritten


class RejectStore(ErasableStore):
    """Rows left out at ingest (quarantine) or at refinement (drops), and the records that a dropped row repeats."""

    def __init__(self, scope: ErasureScope, name: str) -> None:
        super().__init__(scope)
        self.name = name

    def find(self) -> Iterator[FoundPlace]:
        for path in self._list_files():
            count = sum(new != old for old, new in self._revise_lines(path))
            if count:
                yield FoundPlace(store=self.name, place=f"{path.parent.name}@{path.stem}", count=count)

    def erase(self) -> None:
        for path in self._list_files():
            lines = list(self._revise_lines(path))
            if any(new != old for old, new in lines):
                write_atomic(path, b"".join(new for _old, new in lines))

    def _list_files(self) -> list[Path]:
        return sorted((self._scope.home.lake / self.name).rglob("*.jsonl"))

    def _revise_lines(self, path: Path) -> Iterator[tuple[bytes, bytes]]:
        """Yield each line, and the line without references to erased records; b"" if it is about the person."""
        lines = path.read_bytes().splitlines(keepends=True)
        texts = pa.array([line.decode(errors="replace") for line in lines], pa.large_string())
        likely = self._scope.subject.match_loosely(texts).to_pylist()
        yield from ((line, self._revise_line(line, hit)) for line, hit in zip(lines, likely, strict=True))

    def _revise_line(self, line: bytes, likely: bool) -> bytes:
        subject = self._scope.subject
        row: dict[str, Any] = msgspec.json.decode(line, type=dict[str, Any])
        named = likely and any(subject.match_text(value) for value in row.values() if isinstance(value, str))
        cut = str(row.get("excerpt", ""))
        if named or (cut.endswith("...") and subject.match_cut(cut[:-3])) or self._is_erased(row.get("record_id")):
            return b""
        if not self._is_erased(row.get("kept")):
            return line
        return msgspec.json.encode({name: value for name, value in row.items() if name != "kept"}) + b"\n"

    def _is_erased(self, record_id: Any) -> bool:
        return isinstance(record_id, str) and record_id in self._scope.subject.hex_ids


class ShardStore(ErasableStore):
    """Tokens of the person's documents in packed shards; `version_records` removes them."""

    name = "shards"

    def find(self) -> Iterator[FoundPlace]:
        versions = {version.id for version in version_index.list_versions(self._scope.store)}
        for folder in sorted((self._scope.home.lake / "shards").glob("*")):
            count = 0
            if folder.name not in versions:
                continue  # a killed writer left it; it may be incomplete
            for path in folder.glob("*.parquet"):
                ids = pq.read_table(path, columns=["record_id"]).column("record_id")
                count += table_rows.match_ids(ids, self._scope.subject.record_ids).combine_chunks().true_count
            if count:
                yield FoundPlace(store=self.name, place=folder.name, count=count)

    def erase(self) -> None:
        versions = {version.id for version in version_index.list_versions(self._scope.store)}
        for folder in (self._scope.home.lake / "shards").glob("*"):
            if folder.name not in versions:
                shutil.rmtree(folder)


def decode_shard(scope: ErasureScope, path: Path, _head: bytes) -> Iterator[Any] | None:
    """The texts of a shard's documents, if its tokeniser is still where the recipe names it."""
    for version in version_index.list_versions(scope.store):
        folder = refinement.shards_folder(scope.home, version)
        for shard in version.token_shards if path.parent == folder and path.suffix == ".bin" else ():
            options = msgspec.json.decode(version.recipe)[-1]["token-shards"]
            tokeniser = token_shards.find_tokeniser(scope.home, options["tokeniser"])
            if shard.path == path.name and sha256(tokeniser.read_bytes()).hexdigest() == shard.tokeniser_sha256:
                tokens = np.fromfile(path, "<u2" if shard.bits == 16 else "<u4").tolist()
                text = token_shards.load_tokeniser(tokeniser).decode(tokens, skip_special_tokens=False)
                return iter([pa.array([text], pa.large_string())])
    return None


class IndexStore(ErasableStore):
    """Passages of the person in indexes for retrieval, and the cached vectors of texts."""

    name = "indexes"

    def find(self) -> Iterator[FoundPlace]:
        home, _, subject = self._scope
        for version in index_record.list_index_folders(home):
            count = 0
            for path in index_record.index_folder(home, version).glob("*/*.arrow"):
                with suppress(pa.ArrowException, OSError), pa.memory_map(str(path)) as file:
                    passages = pa.ipc.open_file(file)  # not if incomplete: `remove_records` removes the file
                    batches = (passages.get_batch(number) for number in range(passages.num_record_batches))
                    count += sum(table_rows.match_erased(batch, subject).true_count for batch in batches)
            if count:
                yield FoundPlace(store=self.name, place=version, count=count)

    def erase(self) -> None:
        home, _, subject = self._scope
        for version in index_record.list_index_folders(home):
            remove_records(home, version, subject.record_ids)
        remove_embedding_cache(home)


class FileStore(ErasableStore):
    """Files that can be made again: work of unfinished refinements, exports, and what killed writers left."""

    name = "files"

    def find(self) -> Iterator[FoundPlace]:
        home, _, subject = self._scope
        for path in self._list_files():
            if count_decoded(path, subject):
                place = subject.mask_path(path.relative_to(home.root).as_posix())
                yield FoundPlace(store=self.name, place=place, count=1)

    def erase(self) -> None:
        home, _, subject = self._scope
        for path in self._list_files():
            if path.is_relative_to(home.lake / "work") or count_decoded(path, subject):
                path.unlink(missing_ok=True)
        shutil.rmtree(home.lake / "work", ignore_errors=True)

    def _list_files(self) -> list[Path]:
        home = self._scope.home
        folders = [path for path in home.lake.iterdir() if path.name not in OWNED] + [home.root / "exports"]
        found = {path for folder in folders for path in folder.rglob("*") if folder.is_dir()}
        found |= {path for path in home.lake.rglob("*") if any(map(path.match, LEFT_BY_KILL))}
        return sorted(path for path in found if path.is_file() and not path.is_symlink())


def list_lake_stores(scope: ErasureScope) -> list[ErasableStore]:
    rejects = [RejectStore(scope, name) for name in ("quarantine", "drops")]
    return [TableStore(scope), *rejects, ShardStore(scope), IndexStore(scope), FileStore(scope)]
