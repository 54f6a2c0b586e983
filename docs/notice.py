"""The NOTICE of the shipped facts, from their `source` columns; docs/generate.py writes it."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from archwright.catalog.tables import yaml_documents
from archwright.catalog.tables.csv_table import DATA, read_rows
from archwright.catalog.tables.guidance_rows import FOLDER, read_advice, read_features

FILE = "NOTICE"
SOURCE_COLUMNS = ("source", "price_source", "spec_source", "grid_source")
# Each row of this table states the licence of its source.
SCORES = "llm_quality.csv"
HEAD = """Facts shipped with archwright

Every row of these tables names its source. This file is generated from those columns and from licences.csv;
the licences' notices are in LICENSES/. Facts by the project itself are under Apache-2.0 like its code.
"""


def split_works(source: str) -> list[str]:
    """Return the works of a source cell: `work:path/in/it` without the path, several joined by ` ; `."""
    return [re.split(r":(?=[\w*])", part, maxsplit=1)[0].strip() for part in source.split(" ; ")]


def generate_notice(folder: Path = DATA) -> str:
    return "\n".join([HEAD, *_licence_lines(folder), *_table_lines(folder), *_document_lines(folder)])


def _licence_lines(folder: Path) -> list[str]:
    lines = ["Works under a licence of their own", ""]
    for row in read_rows(folder, "licences.csv"):
        lines += [
            f"  {row.required_text('work')}: {row.required_text('licence')} "
            f"(LICENSES/{row.required_text('file')}, {row.required_text('link')})",
            f"    by {row.required_text('attribution')}",
            f"    {row.required_text('covers')}",
            "",
        ]
    return lines


def _table_lines(folder: Path) -> list[str]:
    lines = ["Sources by table (rows)", ""]
    for path in sorted(folder.glob("*.csv")):
        works: Counter[str] = Counter()
        for row in read_rows(folder, path.name):
            works.update({name for column in SOURCE_COLUMNS for name in split_works(row.text(column)) if name})
        lines += [f"  {path.name}", *_count_lines(works), ""]
    licences = Counter(row.text("licence") for row in read_rows(folder, SCORES))
    return [*lines, f"Licences of the sources of {SCORES} (rows)", "", *_count_lines(licences), ""]


def _document_lines(folder: Path) -> list[str]:
    lines = ["Sources by document", ""]
    for engine in yaml_documents.read_engines(folder):
        lines.append(f"  engines.yaml, {engine.id}: {engine.source}")
    for regulation in yaml_documents.read_regulations(folder):
        lines.append(f"  regulations/{regulation.id}.yaml: {regulation.source}")
    for path in sorted((folder / FOLDER).glob("*.yaml")):
        rows = read_features(folder) if path.stem == "features" else read_advice(path.stem, folder)
        lines += [f"  {FOLDER}/{path.name}", *_count_lines(Counter(row.source for row in rows))]
    return [*lines, ""]


def _count_lines(works: Counter[str]) -> list[str]:
    return [f"    {name} ({count})" for name, count in sorted(works.items())]
