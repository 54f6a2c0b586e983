"""How fast documents are parsed in the sandboxed child, beside the same libraries called in this process.

    python -m bench.data.documents FOLDER [--files 400] [--rounds 3]

FOLDER has HTML files at any depth. The sample is drawn with a fixed seed; a PDF is typeset from the text of every
tenth page. A round parses all files by the child, then by the libraries; the median round counts. The start of the
child is measured once and printed apart.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import html_to_markdown
import pypdfium2
import typst

from archwright.lake.documents.document_parser import DocumentParser


def convert_html(path: Path) -> int:
    options = html_to_markdown.ConversionOptions(strip_tags=["a"], skip_images=True, extract_metadata=False)
    text = path.read_bytes().decode("utf-8", "replace")
    return len(html_to_markdown.convert(text, options).content)


def convert_pdf(path: Path) -> int:
    document = pypdfium2.PdfDocument(path.read_bytes())
    return sum(len(page.get_textpage().get_text_range()) for page in document)


def measure_round(files: Sequence[Path], parse: Callable[[Path], object]) -> float:
    start = time.perf_counter()
    for path in files:
        parse(path)
    return time.perf_counter() - start


def typeset(sources: Sequence[Path], folder: Path) -> list[Path]:
    made = []
    for place, path in enumerate(sources):
        text = html_to_markdown.convert(path.read_text("utf-8", "replace")).content.replace("\\", "").replace('"', "'")
        target = folder / f"{place}.pdf"
        source = folder / f"{place}.typ"
        source.write_text(f'#text("{text}")', encoding="utf-8")
        typst.compile(str(source), output=str(target))
        made.append(target)
    return made


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--files", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    found = sorted(path for path in arguments.folder.rglob("*.html") if path.is_file())
    pages = random.Random(20).sample(found, min(arguments.files, len(found)))
    with tempfile.TemporaryDirectory() as folder:
        documents = typeset(pages[::10], Path(folder))
        child = DocumentParser()
        start = time.perf_counter()
        child.parse_file(pages[0], "html")
        print(f"start of the child {time.perf_counter() - start:.2f} s, sandbox: {', '.join(child.sandbox)}")
        for form, files, direct in (("html", pages, convert_html), ("pdf", documents, convert_pdf)):
            times = [
                (
                    measure_round(files, partial(child.parse_file, form=form)),
                    measure_round(files, direct),
                )
                for _round in range(arguments.rounds)
            ]
            size = sum(path.stat().st_size for path in files) / 1e6
            in_child, in_process = (statistics.median(column) for column in zip(*times, strict=True))
            print(
                f"{form}: {len(files)} files, {size:.1f} MB; child {size / in_child:.2f} MB/s, "
                f"{len(files) / in_child:.0f} documents/s; in process {size / in_process:.2f} MB/s, "
                f"{len(files) / in_process:.0f} documents/s; ratio {in_process / in_child:.2f}"
            )
        child.close()


if __name__ == "__main__":
    main()
