"""Batches on a full disk: `unshare -rm python full_disk_batches.py FOLDER`; the folder becomes a small file system."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.serving.batches.conftest import DONE, Batches, write_lines
from tests.serving.conftest import Platform, endpoint, free_port, null_engine, table
from tests.serving.official_clients import openai_client
from tests.tools.full_disk import fill_disk

from archwright.home import Home
from archwright.serving.batches.batch_store import BatchStore

SIZE, LINES = "320m", 2_000
WAITING = 'archwright_batches_waiting{reason="disk"}'
LEFT_BYTES = 64 << 20
FAILURES = 'archwright_batch_failures_total{reason="disk_full"}'


def start_batch(batches: Batches) -> str:
    batch_id = str(batches.create(write_lines(LINES, max_tokens=2)).id)
    batches.wait(batch_id, lambda batch: batch.request_counts and batch.request_counts.completed >= 2)
    return batch_id


def check_end(batches: Batches, batch: Any, code: str) -> None:
    """Each line has a result or an error, and none is there twice."""
    output, errors = batches.read(batch.output_file_id), batches.read(batch.error_file_id)
    assert sorted(one["custom_id"] for one in (*output, *errors)) == sorted(f"c{n}" for n in range(LINES))
    assert 2 <= len(output) < LINES and {one["error"]["code"] for one in errors} == {code}


def leave_free(folder: Path, size: int) -> None:
    """Another program takes the disk but for `size` bytes: enough for requests, too little for batches."""
    with (folder / "filler").open("ab") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(folder).free - size)


def end_on_full_disk(platform: Platform, batches: Batches, folder: Path, batch_id: str) -> Any:
    """Let nothing be free until the batch has ended; the gateway itself then refuses requests."""
    fill_disk(folder)
    store = BatchStore(platform.home, "acme")
    if not (platform.home.root / "impatient").exists():
        store.cancel_batch(batch_id)
    platform.until(lambda: store.find_batch(batch_id).status in DONE)
    (folder / "filler").unlink()
    platform.until(lambda: platform.get("/v1/models").status == 200)
    return batches.wait(batch_id)


def check_batches(platform: Platform, batches: Batches, folder: Path) -> None:
    cancelled = start_batch(batches)
    leave_free(folder, LEFT_BYTES)
    platform.until(lambda: platform.metrics()[WAITING] == 1)
    batch = end_on_full_disk(platform, batches, folder, cancelled)
    assert batch.status == "cancelled", batch
    check_end(batches, batch, "batch_cancelled")
    platform.until(lambda: platform.metrics()[WAITING] == 0)

    failed = start_batch(batches)
    (platform.home.root / "impatient").touch()
    batch = end_on_full_disk(platform, batches, folder, failed)
    assert (batch.status, batch.errors.data[0].code) == ("failed", "disk_full"), batch
    check_end(batches, batch, "batch_failed")
    platform.until(lambda: platform.metrics()[FAILURES] == 1)
    journal = platform.home.log("gateway").read_text()
    assert journal.count('"batch waits for disk"') == 2 and journal.count('"batch failed"') == 1, journal
    assert "batch interrupted" not in journal, journal


def main(folder: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", folder], check=True)
    config = table(endpoint(slots=2), port=free_port())
    platform = Platform(Home(folder / "home"), config, module="tests.serving.batches.impatient_gateway")
    try:
        platform.start_engine(null_engine(slots=2, ttft_s=0.05, tpot_s=0.05))
        platform.start_gateway()
        with openai_client(platform) as client:
            check_batches(platform, Batches(client), folder)
    except BaseException:
        print(platform.home.log("gateway").read_text())
        raise
    finally:
        platform.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
