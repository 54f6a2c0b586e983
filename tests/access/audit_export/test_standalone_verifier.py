"""The verifier of one file: it runs in a bare interpreter, accepts what we write and names what was altered."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from tests.access.audit_delivery.log_with_places import write_events

from archwright.access.audit_checkpoints import CheckpointWriter, load_signing_key, read_checkpoints
from archwright.access.audit_export.export_file import write_export
from archwright.access.audit_export.standalone_verifier import ORDER, is_ed25519_signature
from archwright.access.record_chain import decode_record_lines, extend_digest
from archwright.api import audit
from archwright.home import Home
from archwright.store import Store

Lines = list[bytes]


class Export:
    """An export of a log of three processes, and a verifier that runs without packages."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.path = home.root / "export.jsonl"
        self.program = audit.verifier(output=str(home.root / "verifier.py"))
        with closing(Store(home.store_url)) as store:
            for start in (0, 4, 8):
                write_events(store, home, range(start, start + 4))
        audit.export(output=str(self.path))

    def verify(self, *options: str) -> tuple[int, str]:
        """Run the program as an auditor does: no packages, no environment, another folder."""
        command = [sys.executable, "-I", "-S", str(self.program), str(self.path), *options]
        run = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", env={})
        assert "Traceback" not in run.stderr
        return run.returncode, run.stdout + run.stderr

    @property
    def key(self) -> str:
        return load_signing_key(self.home).public_key


@pytest.fixture
def exported(home: Home, processes: None) -> Export:
    return Export(home)


def test_an_export_is_whole_and_its_signer_is_named(exported: Export) -> None:
    status, text = exported.verify("--public-key", exported.key)
    assert status == 0 and "records 1 to 13 were signed" in text and text.endswith("whole: yes\n")
    status, text = exported.verify()
    assert status == 0 and "compare the public key" in text and exported.key in text
    status, text = exported.verify("--public-key", "ab" * 32)
    assert status == 1 and "no checkpoint of an accepted key" in text


def test_the_file_of_a_second_place_with_repeated_lines_is_whole(exported: Export) -> None:
    lines = exported.path.read_bytes().splitlines(keepends=True)
    exported.path.write_bytes(b"".join([*lines[:9], b'Dec 3 host x: {"kind":"archwright-aud', b"\n", *lines[4:]]))
    assert exported.verify()[0] == 0


def alter(lines: Lines) -> Lines:
    return [line.replace(b"act.2", b"act.3") for line in lines]


def cut_start(lines: Lines) -> Lines:
    return lines[1:]


def cut_middle(lines: Lines) -> Lines:
    return lines[:5] + lines[7:]


def cut_end(lines: Lines) -> Lines:
    return lines[:10] + lines[13:]


def swap(lines: Lines) -> Lines:
    return [lines[1], lines[0], *lines[2:]]


def add_version(lines: Lines) -> Lines:
    """Append another record 13, with a digest that follows."""
    before, last = list(decode_record_lines(lines))[-2:]
    record = last.record.replace(b"audit.export", b"audit.forged")
    line = (
        lines[12]
        .replace(last.record, record)
        .replace(last.digest.encode(), extend_digest(before.digest, record).encode())
    )
    return [*lines[:13], line, *lines[13:]]


def remove_checkpoints(lines: Lines) -> Lines:
    return lines[:13]


def alter_count(lines: Lines) -> Lines:
    return [*lines[:-1], lines[-1].replace(b'"blocks":4', b'"blocks":5')]


def alter_digest(lines: Lines) -> Lines:
    return [line.replace(b'"digest":"', b'"digest":"0', 1) for line in lines]


def write_text(lines: Lines) -> Lines:
    return [b"nothing\n"]


@pytest.mark.parametrize(
    ("attack", "finding"),
    [
        (alter, "line 3: record 3 was altered"),
        (cut_start, "records 1 to 1 are missing, and no signed checkpoint states their removal"),
        (cut_middle, "line 6: records 6 to 7 are missing"),
        (cut_end, "counts 12 records, and the file has 10"),
        (swap, "record 1 stands behind later ones"),
        (add_version, "two versions of record 13"),
        (remove_checkpoints, "no checkpoint of an accepted key"),
        (alter_count, "its signature is false"),
        (alter_digest, "line 1: record 1 was altered"),
        (write_text, "no record of an audit log"),
    ],
)
def test_an_altered_export_is_named(exported: Export, attack: Callable[[Lines], Lines], finding: str) -> None:
    lines = exported.path.read_bytes().splitlines(keepends=True)
    exported.path.write_bytes(b"".join(attack(lines)))
    status, text = exported.verify()
    assert status == 1 and "NOT WHOLE" in text and finding in text


def test_another_log_that_another_key_signed_is_refused(exported: Export, tmp_path: Path) -> None:
    forged = Home(tmp_path / "forged")
    with closing(Store(forged.store_url)) as store:
        write_events(store, forged, range(3))
        CheckpointWriter(store, forged)
    (checkpoint,) = read_checkpoints(forged.audit_checkpoints)
    assert checkpoint.public_key != exported.key
    with closing(Store(forged.store_url)) as store:
        write_export(store, forged, exported.path, form="jsonl")
    assert exported.verify()[0] == 0, "without a key, the file proves only itself"
    assert exported.verify("--public-key", exported.key)[0] == 1


def test_an_absent_file_has_a_status_of_its_own(exported: Export) -> None:
    exported.path.unlink()
    assert exported.verify()[0] == 2


@given(st.binary(max_size=200), st.binary(min_size=32, max_size=32), st.integers(0, 511))
def test_signatures_are_those_of_the_library(data: bytes, secret: bytes, bit: int) -> None:
    key = Ed25519PrivateKey.from_private_bytes(secret)
    public_key = key.public_key().public_bytes_raw()
    signature = key.sign(data)
    assert is_ed25519_signature(public_key, data, signature)
    changed = int.from_bytes(signature, "little") ^ (1 << bit)
    assert not is_ed25519_signature(public_key, data, changed.to_bytes(64, "little"))
    assert not is_ed25519_signature(public_key, data + b"x", signature)


def test_a_signature_with_a_factor_above_the_order_is_refused() -> None:
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    signature = key.sign(b"data")
    factor = int.from_bytes(signature[32:], "little") + ORDER
    malleable = signature[:32] + factor.to_bytes(32, "little")
    assert not is_ed25519_signature(key.public_key().public_bytes_raw(), b"data", malleable)
