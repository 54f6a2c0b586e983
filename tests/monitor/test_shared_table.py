"""The shared table: atomic in spite of kills, never stale or torn, and bounded."""

from __future__ import annotations

import os
import random
import signal
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import lmdb
import pytest
from tests.monitor.conftest import file_size_limit

from archwright.errors import OperateError, StoreError
from archwright.monitor import shared_table as module
from archwright.monitor.shared_table import SharedTable, Transaction, read_boot_id, shared_table_path

SIZE = 1024 * 1024


@pytest.fixture
def table(tmp_path: Path) -> Iterator[SharedTable]:
    with open_table(tmp_path) as opened:
        yield opened


def open_table(folder: Path) -> closing[SharedTable]:
    return closing(SharedTable(folder, "test", SIZE))


def put(transaction: Transaction, key: bytes, value: bytes) -> None:
    transaction.put(key, value)


def test_what_is_written_is_read_and_an_error_takes_it_back(table: SharedTable) -> None:
    table.write(put, b"a", b"1")

    def half(transaction: Transaction) -> None:
        transaction.put(b"a", b"2")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        table.write(half)
    assert table.get(b"a") == b"1"
    assert table.read(lambda transaction: transaction.get(b"b")) is None
    assert table.write(lambda transaction: transaction.get(b"a")) == b"1"


def test_it_is_private_and_allocated_whole(table: SharedTable, tmp_path: Path) -> None:
    files = sorted(tmp_path.iterdir())
    path = shared_table_path(tmp_path, "test", SIZE)
    assert files == [path, Path(f"{path}-lock")]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert files[0].stat().st_blocks * 512 >= SIZE, "a disk that is full later must not be a SIGBUS"


def test_full_is_reported_and_the_rest_stays(table: SharedTable) -> None:
    table.write(put, b"a", b"1")
    with pytest.raises(StoreError, match="full") as caught:
        for number in range(SIZE):
            table.write(put, struct.pack("<q", number), bytes(2000))
    assert caught.value.code == "AW-STO-12"
    assert len(caught.value.lines().splitlines()) == 3
    assert table.get(b"a") == b"1"

    def emptied(transaction: Transaction) -> None:
        with transaction.cursor() as cursor:
            found = cursor.first()
            while found:
                found = cursor.delete()

    table.write(emptied)
    table.write(put, b"a", b"2")
    assert table.get(b"a") == b"2"


def test_a_table_of_another_boot_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(read_boot_id()) == 8
    other = tmp_path / "boot_id"
    other.write_text("11111111-0000\n")
    monkeypatch.setattr(module, "read_boot_id", lambda: read_boot_id(other))
    with open_table(tmp_path) as opened:
        opened.write(put, b"a", b"1")
    SharedTable(tmp_path, "testing", SIZE).close()
    other.write_text("22222222-0000\n")
    with open_table(tmp_path) as opened:
        assert opened.get(b"a") is None
    assert read_boot_id(tmp_path / "none") == "any", "without a boot id there is one table"
    left = {path.name for path in tmp_path.glob("*.lmdb")}
    assert left == {f"test-22222222-{SIZE}.lmdb", f"testing-11111111-{SIZE}.lmdb"}


@pytest.mark.parametrize("damage", ["overwritten", "cut", "empty"])
def test_a_damaged_table_is_recreated(tmp_path: Path, damage: str) -> None:
    with open_table(tmp_path) as opened:
        opened.write(put, b"a", b"1")
    path = shared_table_path(tmp_path, "test", SIZE)
    path.write_bytes({"overwritten": b"\xff" * SIZE, "cut": path.read_bytes()[:8192], "empty": b""}[damage])
    with open_table(tmp_path) as opened:
        assert opened.get(b"a") is None
        opened.write(put, b"a", b"2")
        assert opened.get(b"a") == b"2"


def test_a_table_replaced_under_a_process_is_followed(table: SharedTable, tmp_path: Path) -> None:
    before = table.generation
    shared_table_path(tmp_path, "test", SIZE).unlink()
    Path(f"{shared_table_path(tmp_path, 'test', SIZE)}-lock").unlink()
    table._maintain_at = 0
    table.write(put, b"a", b"1")
    assert table.generation == before + 1
    assert shared_table_path(tmp_path, "test", SIZE).exists() and table.get(b"a") == b"1"


def test_one_that_cannot_be_recreated_on_a_full_disk_is_when_there_is_room(table: SharedTable, tmp_path: Path) -> None:
    table._path.unlink()
    table._maintain_at = 0.0
    with file_size_limit(64 << 10):
        for _ in range(3):
            with pytest.raises(StoreError, match=r"failed|opened|recreated"):
                table.write(put, b"k", b"v")
            table._maintain_at = 0.0
    with pytest.raises(StoreError):
        table.get(b"k")  # recreates the table, so that a reader is served again too
    assert table.get(b"k") is None and table.generation == 2
    table.write(put, b"k", b"v")
    assert table.get(b"k") == b"v"


def test_a_folder_that_cannot_be_used_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(_file: int, _start: int, _length: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", no_space)
    with pytest.raises(OperateError, match="disk is full", check=lambda error: error.code == "AW-OPS-01"):
        SharedTable(tmp_path, "test", SIZE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.process
def test_a_file_that_may_not_grow_so_large_is_reported(tmp_path: Path) -> None:
    """In a separate process, because its limit cannot be raised again."""
    code = (
        "import resource, sys; from pathlib import Path; from archwright.monitor.shared_table import SharedTable;"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({SIZE // 2}, {SIZE // 2}));"
        "from archwright.errors import StoreError\n"
        f"try: SharedTable(Path(sys.argv[1]), 'test', {SIZE})\n"
        "except StoreError as error: print(error.code, error.message)"
    )
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert run.stdout.startswith("AW-STO-11") and "File too large" in run.stdout, run.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_that_cannot_lock_is_reported(tmp_path: Path) -> None:
    class NoLocks(SharedTable):
        def _open_environment(self, path: Path) -> lmdb.Environment:
            if path.name == "new":
                return super()._open_environment(path)
            raise lmdb.LockError(f"{path}: Function not implemented")

    with pytest.raises(StoreError, match="cannot be opened") as caught:
        NoLocks(tmp_path, "test", SIZE)
    assert caught.value.code == "AW-STO-11"
    assert len(caught.value.lines().splitlines()) == 3


def test_a_second_opening_in_one_process_is_refused_and_harms_nothing(table: SharedTable, tmp_path: Path) -> None:
    table.write(put, b"a", b"1")
    with pytest.raises(StoreError, match="cannot be opened"):
        SharedTable(tmp_path, "test", SIZE)
    assert table.get(b"a") == b"1" and shared_table_path(tmp_path, "test", SIZE).exists()
    table._maintain_at = 0
    table.write(put, b"a", b"2")
    assert table.generation == 1


def test_of_two_that_make_it_at_once_one_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def late(source: Path, target: Path) -> None:
        link(source, target)
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    with open_table(tmp_path) as opened:
        opened.write(put, b"a", b"1")
        assert opened.get(b"a") == b"1"


def test_a_table_that_breaks_in_use_is_recreated(table: SharedTable) -> None:
    table.write(put, b"a", b"1")

    def broken(_transaction: Transaction) -> None:
        raise lmdb.CorruptedError("a page is not what it says")

    with pytest.raises(StoreError, match="failed", check=lambda error: error.code == "AW-STO-11"):
        table.write(broken)
    assert table.generation == 2 and table.get(b"a") is None
    table.write(put, b"a", b"2")
    with pytest.raises(StoreError):
        table.read(broken)
    assert table.get(b"a") is None


# Ten accounts; each transaction moves money between two of them in several steps and counts itself.
PROGRAM = """
import random, struct, sys
from pathlib import Path
from archwright.monitor.shared_table import SharedTable
table = SharedTable(Path(sys.argv[1]), "test", int(sys.argv[2]))
chance = random.Random(int(sys.argv[3]))
def move(transaction):
    one, two = chance.sample(range(10), 2)
    amount = chance.randrange(100)
    for key, change in ((b"n", 1), (b"%d" % one, -amount), (b"%d" % two, amount)):
        before = struct.unpack("<q", transaction.get(key) or bytes(8))[0]
        transaction.put(key, struct.pack("<q", before + change))
    transaction.put(b"filler%d" % chance.randrange(500), bytes(chance.randrange(1500)))
table.write(move)
table.write(lambda transaction: transaction.put(b"by" + sys.argv[3].encode(), b""))
print("ready", flush=True)
while True:
    table.write(move)
"""


def total(transaction: Transaction) -> tuple[int, int]:
    def number(key: bytes) -> int:
        return int(struct.unpack("<q", transaction.get(key) or bytes(8))[0])

    return number(b"n"), sum(number(b"%d" % account) for account in range(10))


def start(folder: Path, seed: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", PROGRAM, str(folder), str(4 * SIZE), str(seed)]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


@pytest.mark.parametrize(
    "rounds", [pytest.param(12, marks=pytest.mark.process), pytest.param(500, marks=pytest.mark.nightly)]
)
def test_kill_9_in_the_middle_of_transactions(tmp_path: Path, rounds: int) -> None:
    """Run two writers; kill and replace one at random moments, repeatedly."""
    chance = random.Random(5)
    table = SharedTable(tmp_path, "test", 4 * SIZE)
    running = [start(tmp_path, seed) for seed in range(2)]
    stuck = threading.Timer(60 + rounds, lambda: list(map(subprocess.Popen.kill, running)))
    stuck.start()
    try:
        count, seeds = 0, [0, 1]
        for round_ in range(rounds):
            victim = running.pop(0)
            assert victim.stdout is not None
            assert victim.stdout.readline() == b"ready\n", "nobody could write on"
            time.sleep(chance.uniform(0.001, 0.03))
            victim.send_signal(signal.SIGKILL)
            victim.wait()
            victim.stdout.close()
            running.append(start(tmp_path, 100 + round_))
            before, (count, sum_) = count, table.write(total)
            assert sum_ == 0, "a transaction was seen half done"
            assert count >= before, "a committed transaction is gone"
            assert table.get(b"by%d" % seeds[0]) == b"", "what was acknowledged is gone"
            seeds = [*seeds[1:], 100 + round_]
        assert table.generation == 1 and count > rounds
    finally:
        stuck.cancel()
        for process in running:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        table.close()


HOLDER = """
import os, signal, sys
from pathlib import Path
from archwright.monitor.shared_table import SharedTable
table = SharedTable(Path(sys.argv[1]), "test", int(sys.argv[2]))
def die(transaction):
    transaction.put(b"a", b"half")
    os.kill(os.getpid(), signal.SIGKILL)
table.write(die) if sys.argv[3] == "write" else table.read(lambda t: (t.get(b"a"), os.kill(os.getpid(), 9)))
"""


@pytest.mark.process
@pytest.mark.parametrize("how", ["write", "read"])
def test_the_lock_and_the_view_of_a_dead_process_are_freed(table: SharedTable, tmp_path: Path, how: str) -> None:
    """Kill a process while it holds the write lock, or a snapshot of old pages."""
    table.write(put, b"a", b"whole")
    for _ in range(3):
        ended = subprocess.run([sys.executable, "-c", HOLDER, str(tmp_path), str(SIZE), how], check=False)
        assert ended.returncode == -signal.SIGKILL
        assert table.get(b"a") == b"whole"
        table._maintain_at = 0
        for number in range(2000):  # 4 MB through a table of 1 MB: old pages are reused
            table.write(put, b"b", number.to_bytes(2, "little") * 1000)
