"""Print the arguments of `vllm serve` and the names of its parsers, read from a wheel without running it.

    python -m tests.deploy.list_vllm_arguments vllm-0.33.0-*.whl >> tests/deploy/vllm_arguments.csv

`pip download --no-deps vllm==VERSION` fetches the wheel. Needed when components.csv names another version.
"""

from __future__ import annotations

import ast
import csv
import re
import sys
from collections.abc import Iterator
from zipfile import ZipFile

PARSERS = {"reasoning": "vllm/reasoning/__init__.py", "tool": "vllm/tool_parsers/__init__.py"}
FLAG, PARSER = re.compile(r'"(--[a-z0-9][a-z0-9-]+)"'), re.compile(r'^    "([\w.-]+)": \(', re.MULTILINE)


def list_names(wheel: ZipFile) -> Iterator[tuple[str, list[str]]]:
    """Yield the kind of the names, and the names."""
    sources = [name for name in wheel.namelist() if name.endswith(("/cli_args.py", "engine/arg_utils.py"))]
    flags = set[str]()
    for name in sources:
        text = wheel.read(name).decode()
        flags.update(FLAG.findall(text))
        if name.endswith("/cli_args.py"):
            flags.update(_list_fields(text))
    yield "argument", sorted(flags)
    for kind, name in PARSERS.items():
        yield kind, sorted(PARSER.findall(wheel.read(name).decode()))


def _list_fields(text: str) -> Iterator[str]:
    """Yield the arguments that vLLM makes of the fields of its records."""
    for record in ast.parse(text).body:
        for field in record.body if isinstance(record, ast.ClassDef) else ():
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                yield f"--{field.target.id.replace('_', '-')}"


if __name__ == "__main__":
    path = sys.argv[1]
    version = path.rpartition("/")[2].split("-")[1]
    with ZipFile(path) as found:
        rows = csv.writer(sys.stdout, lineterminator="\n")
        for kind, names in list_names(found):
            rows.writerow([version, kind, " ".join(names), f"wheel of vllm {version} from PyPI, 2026-12"])
