"""A batch in the hands of one process: faults of its input, the log of results after a crash, the lock."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.serving.batches.conftest import CHAT, write_lines

from archwright.contract.served import RequestRecord
from archwright.home import Home
from archwright.serving.batches import locked_batch
from archwright.serving.batches.batch_store import BatchStore, FileObject, StoredBatch
from archwright.serving.batches.locked_batch import LineResult, LockedBatch

LINE_BYTES = 198
BODY = msgspec.Raw(b'{"a": "b"}')


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def create(home: Home, data: bytes) -> str:
    store = BatchStore(home, "acme")
    return store.create_batch(store.add_file("in.jsonl", data).id, CHAT, "key-1", None).id


@contextmanager
def opened(home: Home, batch_id: str) -> Iterator[LockedBatch]:
    with closing(LockedBatch(home, "acme", batch_id)) as job:
        assert job.read_input() == ()
        job.open_results()
        yield job


@pytest.mark.parametrize(
    ("data", "code", "line"),
    [
        (b"", "invalid_request_count", None),
        (b"\n \n", "invalid_request_count", None),
        (write_lines(1) + b"{", "invalid_json_line", 2),
        (b"\n" + write_lines(1) * 2, "duplicate_custom_id", 3),
        (write_lines(1).replace(b"/v1/chat/completions", b"/v1/embeddings"), "mismatched_url", 1),
        (write_lines(1).replace(b"POST", b"GET"), "invalid_json_line", 1),
        (write_lines(1).replace(b'"c0"', b'""'), "invalid_json_line", 1),
        (write_lines(1, stream=True), "stream_unsupported", 1),
        (write_lines(1) + write_lines(1, model="e").replace(b"c0", b"c1"), "mismatched_model", 2),
        (write_lines(1, model=5), "invalid_json_line", 1),
        (write_lines(1).replace(b'"c0"', b'"c\xff"'), "invalid_json_line", 1),
        (b"[" * 100_000, "invalid_json_line", 1),
    ],
    ids=range(12),
)
def test_faults_of_the_input_are_listed(home: Home, data: bytes, code: str, line: int | None) -> None:
    with closing(LockedBatch(home, "acme", create(home, data))) as job:
        assert [(fault.code, fault.line) for fault in job.read_input()] == [(code, line)]


def test_too_many_lines_and_faults(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locked_batch, "MAX_LINES", 3)
    with closing(LockedBatch(home, "acme", create(home, write_lines(4)))) as job:
        assert [fault.code for fault in job.read_input()] == ["invalid_request_count"]
    with closing(LockedBatch(home, "acme", create(home, b"x\n" * 1_000))) as job:
        assert len(job.read_input()) <= locked_batch.MAX_ERRORS + 1
    with closing(LockedBatch(home, "acme", create(home, b"\n" * 1_000 + b"x"))) as job:
        (fault,) = job.read_input()  # the line after many blank ones is not read
        assert fault.code == "invalid_request_count" and fault.message.startswith("The first 4 lines")


def test_only_one_process_has_a_batch(home: Home) -> None:
    batch_id = create(home, write_lines(1))
    with closing(LockedBatch(home, "acme", batch_id)), pytest.raises(BlockingIOError):
        LockedBatch(home, "acme", batch_id)
    with closing(LockedBatch(home, "acme", batch_id)):
        pass


@pytest.mark.property
@settings(max_examples=25)
@given(cut=st.integers(0, 800), garbage=st.binary(max_size=20), order=st.permutations(range(5)))
@example(cut=LINE_BYTES - 1, garbage=b"", order=list(range(5)))  # only the end of the line is missing
@example(cut=4 * LINE_BYTES, garbage=b"", order=[4, 3, 2, 1, 0])
def test_results_cut_anywhere_by_a_power_failure_run_again(cut: int, garbage: bytes, order: list[int]) -> None:
    """The index may be ahead of the data: the lines that the data lacks have no result."""
    with tempfile.TemporaryDirectory() as folder:
        home = Home(folder + "/home")
        batch_id = create(home, write_lines(5))
        with opened(home, batch_id) as job:
            for number in order[:4]:
                job.append(LineResult(number, job.request_id(number), 200, BODY))
        path = home.batches / "acme" / f"file-{batch_id[6:]}o.jsonl"
        data = path.read_bytes()
        path.write_bytes((data[:cut] + garbage.replace(b"\n", b"")).ljust(len(data), b"\0"))
        complete = min(4, data[:cut].count(b"\n"))
        assert data.index(b"\n") == LINE_BYTES - 1
        with opened(home, batch_id) as job:
            assert job.list_remaining() == sorted(set(range(5)) - set(order[:complete]))
            for number in job.list_remaining():
                job.append(LineResult(number, job.request_id(number), 500, BODY))
            job.finish("completed", 7)
            check_results(job, complete)


def check_results(job: LockedBatch, successes: int) -> None:
    batch: Any = job.store.find(StoredBatch, job.batch.id)
    written = {name: 0 for name in (batch.output_file_id, batch.error_file_id) if name}
    for name in written:
        ids = [line["custom_id"] for line in read_lines(job.store, name)]
        assert ids == sorted(ids)
        written[name] = len(ids)
    assert (written.get(batch.output_file_id, 0), sum(written.values())) == (successes, 5)
    assert batch.request_counts == {"total": 5, "completed": successes, "failed": 5 - successes}
    assert not job.store.path(batch.id, "log").exists()


def read_lines(store: BatchStore, name: str) -> list[Any]:
    with closing(store.open_file(name)) as file:
        return [msgspec.json.decode(line) for line in file.read(0, file.size).splitlines()]


@pytest.mark.parametrize("step", ["_finish_files", "save"])
def test_an_interrupted_end_goes_on_with_its_outcome(home: Home, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """After the crash the batch would look completed, since each of its lines has a result or an error."""
    batch_id = create(home, write_lines(5))
    with opened(home, batch_id) as job:
        job.append(LineResult(3, job.request_id(3), 200, BODY))
        job.append(LineResult(1, job.request_id(1), 500, BODY))
        BatchStore(home, "acme").cancel_batch(batch_id)
        with monkeypatch.context() as patched:
            real, calls = getattr(LockedBatch, step), list[Any]()

            def crash(self: LockedBatch, *given: Any, **more: Any) -> Any:
                result = real(self, *given, **more)
                calls.append(more)
                if step == "_finish_files" or len(calls) == 1:
                    raise OSError("no more")
                return result

            patched.setattr(LockedBatch, step, crash)
            with pytest.raises(OSError, match="no more"):
                job.finish("cancelled", 7)
    with opened(home, batch_id) as job:
        assert job.batch.outcome == "cancelled" and job.batch.status == "finalizing"
        job.finish("completed", 8)
    batch = BatchStore(home, "acme").find_batch(batch_id)
    assert (batch.status, batch.request_counts) == ("cancelled", {"total": 5, "completed": 1, "failed": 1})
    assert batch.cancelling_at is not None and batch.error_file_id is not None
    errors = read_lines(job.store, batch.error_file_id)
    assert [line["custom_id"] for line in errors] == ["c0", "c1", "c2", "c4"]
    assert [line["error"] is None for line in errors] == [False, True, False, False]


def test_results_of_an_older_version_are_kept(home: Home) -> None:
    batch_id = create(home, write_lines(3))
    record = RequestRecord(at=5.0, request_id=f"req_{batch_id}_00002", status="ok", tenant="acme")
    older = LineResult(2, record.request_id, 200, BODY, record)
    BatchStore(home, "acme").path(batch_id, "log").write_bytes(msgspec.json.encode(older) + b"\n" + b'{"number": 1, ')
    for _ in range(2):
        with opened(home, batch_id) as job:
            assert job.list_remaining() == [0, 1]
    with opened(home, batch_id) as job:
        job.finish("expired", 9)
        assert job.batch.request_counts == {"total": 3, "completed": 1, "failed": 0}
        (line,) = read_lines(job.store, str(job.batch.output_file_id))
        assert line["response"] == {"status_code": 200, "request_id": record.request_id, "body": {"a": "b"}}


def test_files_without_lines_do_not_exist(home: Home) -> None:
    """Files that no list shows cannot be deleted, and count as files of the tenant for 30 days."""
    with opened(home, create(home, write_lines(1))) as job:
        job.append(LineResult(0, "req_1", 200, BODY))
        job.finish("completed", 5)
        assert job.batch.output_file_id and job.batch.error_file_id is None
    listed, _more = BatchStore(home, "acme").list_objects(FileObject, 9, "", newest_first=True)
    assert sorted(one.id for one in listed) == sorted(path.stem for path in home.batches.glob("acme/*.jsonl"))
