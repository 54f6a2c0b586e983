"""Names of engines' series per version, against expositions written from the sources that the catalog names.

llama.cpp's own page is read from the running server in tests/operate/test_installed_server.py.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.deploy.monitoring.test_monitored_rules import FOREIGN

from archwright.catalog.load import load_catalog
from archwright.catalog.tables.records import parse_version
from archwright.contract.metrics import METRIC_BY_QUANTITY

CATALOG = load_catalog()
PAGES = {path.stem: path for path in sorted(Path(__file__).with_name("expositions").glob("*.txt"))}
ENGINE_PAGES = [name for name in PAGES if not name.startswith("dcgm")]


def read_names(page: str) -> dict[str, str]:
    """Return the type of each metric of a page."""
    return dict(re.findall(r"^# TYPE (\S+) (\w+)$", PAGES[page].read_text(), re.MULTILINE))


@pytest.mark.parametrize("page", ENGINE_PAGES)
def test_each_name_of_a_version_is_on_its_page_with_the_kind_we_expect(page: str) -> None:
    engine, _, version = page.rpartition("-")
    kinds = read_names(page)
    rows = [row for row in CATALOG.engine_metrics if row.engine == engine and row.covers(version)]
    assert rows
    for row in rows:
        assert row.series in kinds, row
        if row.quantity in METRIC_BY_QUANTITY:
            assert kinds[row.series] == METRIC_BY_QUANTITY[row.quantity].kind, row
        for renamed in row.labels.split():
            assert f'{renamed.partition("=")[2]}="' in PAGES[page].read_text()


def test_a_name_of_another_version_is_missing_on_the_page() -> None:
    for old, new in (("vllm-0.9.1", "vllm-0.33.0"), ("vllm-0.33.0", "vllm-0.9.1")):
        version = old.rpartition("-")[2]
        names = {row.series for row in CATALOG.engine_metrics if row.engine == "vllm" and row.covers(version)}
        assert len(names - read_names(new).keys()) == 4  # cache, queries and hits of prefixes, time per token


def test_pages_cover_the_pinned_versions_and_each_rename() -> None:
    versions = {name: parse_version(name.rpartition("-")[2]) for name in ENGINE_PAGES}
    for component in CATALOG.components.values():
        if any(page.startswith(f"{component.engine}-") for page in ENGINE_PAGES):
            assert parse_version(component.version) in versions.values(), component.id
    for row in CATALOG.engine_metrics:
        if row.until:
            assert any(row.covers(name.rpartition("-")[2]) for name in ENGINE_PAGES if name.startswith(row.engine)), row


def test_accelerator_series_are_those_of_the_exporter() -> None:
    assert {name for name in FOREIGN if name.startswith("DCGM")} <= read_names("dcgm-exporter-4.6.0").keys()
