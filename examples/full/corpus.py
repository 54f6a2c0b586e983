"""Write the demo's corpora from files that every Python installation has: real text, clear licences.

- `qa`: questions and docstrings of the standard library (PSF licence), as jsonl, csv and parquet.
- `handbook`: the language reference's topics that `help()` shows (PSF licence), as text and markdown.
- `digits`: 1,797 handwritten digits of 8 x 8 pixels (UCI, CC BY 4.0; shipped with scikit-learn), as csv.
- `shuttle`: 49,097 sensor readings with an anomaly flag (Statlog Shuttle, UCI, CC BY 4.0; from river's
  wheel), as csv.gz.

The demo checks the handling of rows that are added on purpose: PLANTED_BROKEN lines that are no JSON, and
PLANTED_PERSONAL rows with an e-mail address, a telephone number, a card, an IBAN and an IP address (all made up).
"""

from __future__ import annotations

import ast
import csv
import hashlib
import inspect
import json
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from pydoc_data import topics

import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.datasets import load_digits

PLANTED_BROKEN = ('{"prompt": "What does Python\'s', "not json at all", '["a list", "is no record"]')
PLANTED_PERSONAL = tuple(
    {
        "prompt": f"Who answers for the {name} package?",
        "completion": (
            f"Write to {name}.keeper@example.org or call +44 20 7946 0{number}; the server is 203.0.113.{number}. "
            "Card 4111 1111 1111 1111, account DE89 3704 0044 0532 0130 00."
        ),
    }
    for number, name in enumerate(("archive", "browser", "compiler", "debugger"), 100)
)
SKIPPED = {"test", "tests", "idlelib", "site-packages", "dist-packages", "lib2to3", "turtledemo", "__pycache__"}
CHARACTERS = range(40, 1200)
RIVER = "river==0.26.1"
SHUTTLE_MEMBER = "river/datasets/shuttle.csv.gz"


def questions() -> Iterator[dict[str, str]]:
    """Yield every documented function, class and method of the standard library, in the order of its files."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if SKIPPED & set(parts) or any(part.startswith(("_", "test")) for part in parts[:-1]):
            continue
        module = ".".join(part for part in parts if part != "__init__")
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for name, text in _documented(tree, module):
            if len(text) in CHARACTERS:
                yield {"prompt": f"What does Python's {name} do?", "completion": text, "module": module}


def _documented(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            text = ast.get_docstring(child)
            if text and not child.name.startswith("_"):
                yield f"{name}.{child.name}", inspect.cleandoc(text)
            if isinstance(child, ast.ClassDef):
                yield from _documented(child, f"{name}.{child.name}")


def write_questions(folder: Path) -> int:
    """Write three files of three formats; return the number of rows without the broken rows."""
    rows = list(questions())
    third = len(rows) // 3
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row) for row in (*rows[:third], *PLANTED_PERSONAL)]
    (folder / "a.jsonl").write_text("\n".join([*lines, *PLANTED_BROKEN]) + "\n", encoding="utf-8")
    with (folder / "b.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows[third : 2 * third])
    pq.write_table(pa.Table.from_pylist(rows[2 * third :]), folder / "c.parquet")
    return len(rows) + len(PLANTED_PERSONAL)


def write_handbook(folder: Path) -> int:
    """Write one file per topic; return the number of files."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, text) in enumerate(sorted(topics.topics.items())):
        form = "md" if number % 2 else "txt"
        (folder / f"{name.replace('/', '-')}.{form}").write_text(text, encoding="utf-8")
    return len(topics.topics)


def write_digits(path: Path) -> int:
    pixels, labels = load_digits(return_X_y=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow([*(f"pixel_{number:02d}" for number in range(pixels.shape[1])), "label"])
        table.writerows([*map(int, row), int(label)] for row, label in zip(pixels, labels, strict=True))
    return len(labels)


def write_shuttle(path: Path) -> str:
    """Extract the file from river's wheel, which is downloaded but not installed; return its SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        pip = [
            sys.executable,
            "-P",
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "--only-binary",
            ":all:",
            "-d",
            scratch,
            RIVER,
        ]
        subprocess.run(pip, check=True)
        with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
            data = wheel.read(SHUTTLE_MEMBER)
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def main() -> int:
    target = Path(sys.argv[1])
    print(f"qa: {write_questions(target / 'qa'):,} rows")
    print(f"handbook: {write_handbook(target / 'handbook')} topics")
    print(f"digits: {write_digits(target / 'digits' / 'digits.csv'):,} rows")
    print(f"shuttle: sha256 {write_shuttle(target / 'shuttle' / 'shuttle.csv.gz')[:12]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
