"""Results count in the quota of their tenant, and a batch without space ends with a reason, on any disk."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from tests.serving.batches.conftest import Batches, write_lines
from tests.serving.batches.test_locked_batch import BODY, create, opened, read_lines
from tests.serving.official_clients import openai_client

from archwright.home import Home
from archwright.monitor.wal.compaction import read_served
from archwright.serving.batches import tenant_space
from archwright.serving.batches.batch_store import BatchStore
from archwright.serving.batches.locked_batch import LineResult
from archwright.serving.batches.result_file import AHEAD_BYTES, ReadableFile
from archwright.serving.batches.tenant_space import TENANT_BYTES, TenantSpace
from archwright.serving.http.errors import ApiError
from archwright.settings import child_environment

if TYPE_CHECKING:
    from tests.serving.conftest import Platform

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "tests" / "tools" / "full_disk_batches.py"
LINES, INPUTS = 60, 40


@contextmanager
def limited_file_size(size: int) -> Iterator[None]:
    """No file of this process may grow beyond `size`, as under a quota."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def embedding_lines(count: int, inputs: int) -> bytes:
    body = {"model": "e", "input": ["a"] * inputs}
    lines = ({"custom_id": f"c{n}", "method": "POST", "url": "/v1/embeddings", "body": body} for n in range(count))
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


@pytest.mark.enable_socket
def test_results_count_in_the_quota_of_the_tenant(null: Platform) -> None:
    """A small upload may ask for results of any size."""
    tenant, room = "small", 200_000
    with openai_client(null, null.made_key(tenant)) as client:
        batches = Batches(client)
        one = batches.wait(batches.create(embedding_lines(1, INPUTS), "/v1/embeddings").id)
        size = client.files.retrieve(one.output_file_id).bytes
        filler = null.home.batches / tenant / "filler.jsonl"
        filler.touch()
        used = TenantSpace(null.home, tenant).count_bytes()
        os.truncate(filler, TENANT_BYTES - used - room)
        assert LINES * size > 2 * room, "the results must not fit"
        batch = batches.wait(batches.create(embedding_lines(LINES, INPUTS), "/v1/embeddings").id)
        assert (batch.status, batch.errors.data[0].code) == ("failed", "file_quota_exceeded")
        assert TenantSpace(null.home, tenant).count_bytes() <= TENANT_BYTES
        filler.unlink()
        output, errors = batches.read(batch.output_file_id), batches.read(batch.error_file_id)
    ids = [line["custom_id"] for line in (*output, *errors)]
    assert sorted(ids) == sorted(f"c{n}" for n in range(LINES)) and 0 < len(output) < LINES
    assert {line["error"]["code"] for line in errors} == {"batch_failed"}
    assert null.metrics()['archwright_batch_failures_total{reason="file_quota_exceeded"}'] == 1
    assert batch.id in "".join(find_events(null.home, "batch failed"))
    with closing(null.store) as store:
        recorded = {one.request_id for one in read_served(store, null.home) if batch.id in one.request_id}
    assert recorded >= {line["response"]["request_id"] for line in output}, "a delivered result was not recorded"


def find_events(home: Home, event: str) -> list[str]:
    return [line for line in home.log("gateway").read_text().splitlines() if f'"{event}"' in line]


def test_results_are_written_once(tmp_path: Path) -> None:
    """While a batch runs, its disk is that of its results; its end copies nothing, and gives the rest back."""
    home = Home(tmp_path / "home")
    count, body = 40, msgspec.Raw(b'"' + b"x" * 100_000 + b'"')
    batch_id = create(home, write_lines(count))
    space = TenantSpace(home, "acme")
    with opened(home, batch_id) as job:
        before = space.count_bytes()
        for number in reversed(range(count)):
            job.append(LineResult(number, job.request_id(number), 200, body))
            assert space.count_bytes() - before <= (count - number) * 101_000 + AHEAD_BYTES
        assert space.count_bytes() - before >= count * 100_000, "results are not written as their lines end"
        monitored = {path.name: path.stat().st_ino for path in home.batches.glob("acme/*.jsonl")}
        job.finish("completed", 7)
    after = {path.name: path.stat().st_ino for path in home.batches.glob("acme/*.jsonl")}
    assert after.items() <= monitored.items(), "the end wrote another file"
    name = str(job.batch.output_file_id)
    assert [line["custom_id"] for line in read_lines(job.store, name)] == [f"c{n}" for n in range(count)]
    assert space.count_bytes() < count * 101_000 + 10_000


def test_blocks_of_a_file_are_the_file(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    batch_id = create(home, write_lines(7))
    with opened(home, batch_id) as job:
        for number in (3, 0, 1, 6, 5, 4, 2):
            body = msgspec.Raw(b'"%b"' % (b"%d" % number * 50 * number))
            job.append(LineResult(number, job.request_id(number), 200, body))
        job.finish("completed", 7)
    with closing(job.store.open_file(str(job.batch.output_file_id))) as file:
        whole = file.read(0, file.size)
        assert len(whole) == file.size and file.read(file.size, 9) == b""
        for size in (1, 7, 193, 1_000):
            blocks = [file.read(start, size) for start in range(0, file.size, size)]
            assert b"".join(blocks) == whole and {len(block) for block in blocks[:-1]} <= {size}
    assert isinstance(file, ReadableFile)


def test_a_result_without_space_leaves_the_others_whole(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    batch_id = create(home, write_lines(5))
    large = msgspec.Raw(b'"' + b"x" * (AHEAD_BYTES + 1) + b'"')
    with opened(home, batch_id) as job:
        job.append(LineResult(1, job.request_id(1), 200, BODY))
        job.append(LineResult(4, job.request_id(4), 500, BODY))
        with limited_file_size(AHEAD_BYTES), pytest.raises(ApiError) as refused:
            job.append(LineResult(2, job.request_id(2), 200, large))
        assert refused.value.openai_code == "disk_full"
    with opened(home, batch_id) as job:
        assert job.list_remaining() == [0, 2, 3]
        with limited_file_size(0), pytest.raises(ApiError, match="no space"):
            job.finish("failed", 7)  # not even the object of the batch can be written
    with opened(home, batch_id) as job:
        assert job.list_remaining() == [0, 2, 3] and job.batch.status == "validating"
        largest = max(path.stat().st_size for path in home.batches.glob("acme/*.jsonl"))
        with limited_file_size(largest):
            job.finish("failed", 7)  # the errors of its lines were held
        errors = read_lines(job.store, str(job.batch.error_file_id))
    assert [line["custom_id"] for line in errors] == ["c0", "c2", "c3", "c4"]
    assert job.batch.request_counts == {"total": 5, "completed": 1, "failed": 1}


def test_a_batch_that_finds_no_space_at_its_start_has_no_files(tmp_path: Path, monkeypatch: Any) -> None:
    home = Home(tmp_path / "home")
    batch_id = create(home, write_lines(5))
    before = {path.name for path in home.batches.glob("acme/*")}
    monkeypatch.setattr(tenant_space, "TENANT_BYTES", TenantSpace(home, "acme").count_bytes() + 100)
    with pytest.raises(ApiError, match="Delete files"), opened(home, batch_id):
        pytest.fail("there is space")
    after = {path.name for path in home.batches.glob("acme/*")}
    assert after - before <= {f"{batch_id}.log"}
    store = BatchStore(home, "acme")
    assert store.find_batch(batch_id).status == "validating"


@pytest.mark.nightly
@pytest.mark.enable_socket
def test_batches_end_on_a_full_disk(processes: None, tmp_path: Path) -> None:
    command = ["unshare", "-rm", sys.executable, str(SCRIPT), str(tmp_path)]
    environment = child_environment({"PYTHONPATH": str(ROOT), "ARCHWRIGHT_AUDIT_SECOND_PLACE": "none"})
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
