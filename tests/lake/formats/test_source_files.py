"""Which files an ingest takes, and what it says of the others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from archwright.lake.formats import source_files

from ...tools.checks import refuses


def test_a_folder_is_walked_in_order_and_what_is_passed_over_is_named(tmp_path: Path) -> None:
    outside = tmp_path / "outside.txt"
    outside.write_text("secret", encoding="utf-8")
    root = tmp_path / "a folder ü"
    (root / "b" / "c").mkdir(parents=True)
    (root / ".git").mkdir()
    for name in ("z.txt", "b/a.md", "b/c/x.jsonl", ".hidden.txt", ".git/y.txt", "B.csv"):
        (root / name).write_text("x", encoding="utf-8")
    (root / "link.txt").symlink_to(outside)
    (root / "up").symlink_to(tmp_path, target_is_directory=True)
    (root / "same.txt").symlink_to(root / "z.txt")
    os.mkfifo(root / "pipe.txt")
    found = source_files.scan_sources(root)
    assert [source.name for source in found.sources] == ["B.csv", "b/a.md", "b/c/x.jsonl", "z.txt"]
    assert sorted(line.partition(":")[0] for line in found.passed_over) == [
        *(".git", ".hidden.txt", "link.txt", "pipe.txt", "same.txt", "up")
    ]
    assert "link.txt: a link to a place outside of the folder" in found.passed_over
    assert source_files.scan_sources(root / "link.txt").sources[0].name == "link.txt"  # named by the caller: meant


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with refuses("AW-DATA-02"):
        source_files.scan_sources(tmp_path)
    (tmp_path / ".hidden").write_text("x", encoding="utf-8")
    with refuses("AW-DATA-02", r"1 skipped: \.hidden: hidden"):
        source_files.scan_sources(tmp_path)
    with refuses("AW-USE-01") as missing:
        source_files.scan_sources(tmp_path / "nowhere")
    assert missing.value.where.file == str(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.txt")
    with refuses("AW-DATA-06"):
        source_files.scan_sources(tmp_path / "pipe.txt")
    (tmp_path / os.fsdecode(b"\xff.txt")).write_text("x", encoding="utf-8")
    with refuses("AW-DATA-05") as unnamed:
        source_files.scan_sources(tmp_path)
    assert unnamed.value.lines().isascii()


@pytest.mark.parametrize(
    ("name", "form"),
    [("a.JSONL", "jsonl"), ("a.Csv.GZ", "csv"), ("a.b.parquet", "parquet"), ("x/a.markdown", "text"), ("a.tsv", "csv")],
)
def test_formats_go_by_the_name(name: str, form: str) -> None:
    assert source_files.detect_format(name) == form


def test_a_pickle_is_refused_with_the_reason_and_the_way_out() -> None:
    with refuses("AW-DATA-04", "can run code in it") as caught:
        source_files.detect_format("model.pkl")
    assert "to_parquet" in caught.value.hint
