"""Addresses that are refused before anything is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from archwright.lake.sources.source_scan import SourceAddress, scan_address

from ...tools.checks import refuses


@pytest.mark.parametrize("path", ["", " "])
def test_an_empty_path_is_not_the_working_folder(tmp_path: Path, path: str) -> None:
    with refuses("AW-DATA-02", "the path is empty"), scan_address(SourceAddress(path), tmp_path / "spool", {}):
        pass
