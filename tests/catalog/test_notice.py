"""The shipped NOTICE is what the tables' own source columns say."""

from __future__ import annotations

from docs import notice

from archwright.catalog.tables.csv_table import DATA, read_rows


def test_the_shipped_notice_is_the_generated_one() -> None:
    assert (DATA / notice.FILE).read_text(encoding="utf-8") == notice.generate_notice()


def test_the_notices_of_every_licence_are_shipped() -> None:
    files = {row.required_text("file") for row in read_rows(DATA, "licences.csv")}
    assert files == {path.name for path in (DATA / "LICENSES").iterdir()}
    assert {"CC-BY-SA-4.0.txt", "CC-BY-4.0.txt"} <= files


def test_every_licensed_work_is_one_a_table_names() -> None:
    tables = [path.name for path in DATA.glob("*.csv") if path.name != "licences.csv"]
    cells = {row.text(column) for table in tables for row in read_rows(DATA, table) for column in notice.SOURCE_COLUMNS}
    works = [row.required_text("work") for row in read_rows(DATA, "licences.csv")]
    assert [work for work in works if not any(work in cell for cell in cells)] == []


def test_a_source_cell_is_cut_at_the_path_inside_the_work() -> None:
    assert notice.split_works("PyPI litgpt 0.5.13:litgpt/config.py (x)") == ["PyPI litgpt 0.5.13"]
    assert notice.split_works("a/b:c.yaml ; tf32 page") == ["a/b", "tf32 page"]
    assert notice.split_works("recalled: not looked up") == ["recalled: not looked up"]
