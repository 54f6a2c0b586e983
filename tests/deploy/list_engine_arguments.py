"""Print the arguments of an engine's server and the names of its parsers, read from a wheel without running it.

    python -m tests.deploy.list_engine_arguments vllm-0.33.0-*.whl >> tests/deploy/engine_arguments.csv

`pip download --no-deps vllm==VERSION`, or sglang, fetches the wheel. Needed when components.csv names another version.
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
SGLANG_FIELDS, SGLANG_SERVER = "sglang/srt/arg_groups/fields/", "sglang/srt/server_args.py"
SGLANG_PARSERS = {
    "reasoning": "sglang/srt/parser/reasoning_parser_names.py",
    "tool": "sglang/srt/function_call/parser_names.py",
}


def list_vllm_names(wheel: ZipFile) -> Iterator[tuple[str, list[str]]]:
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


def list_sglang_names(wheel: ZipFile) -> Iterator[tuple[str, list[str]]]:
    """Yield the kind of the names, and the names."""
    flags = set(FLAG.findall(wheel.read(SGLANG_SERVER).decode()))
    for name in wheel.namelist():
        if name.startswith(SGLANG_FIELDS):
            for record in ast.parse(wheel.read(name)).body:
                flags.update(_list_annotated(record))
    yield "argument", sorted(flags)
    for kind, name in SGLANG_PARSERS.items():
        (names,) = (node.value for node in ast.parse(wheel.read(name)).body if isinstance(node, ast.Assign))
        yield kind, sorted(ast.literal_eval(names))


def _list_annotated(record: ast.stmt) -> Iterator[str]:
    """Yield the arguments that SGLang makes of the fields with a help text: `field: A[kind, Arg(...)]`."""
    for field in record.body if isinstance(record, ast.ClassDef) else ():
        match field:
            case ast.AnnAssign(target=ast.Name(id=name), annotation=ast.Subscript(slice=ast.Tuple(elts=[_, about]))):
                stated = {one.arg: one.value for one in about.keywords} if isinstance(about, ast.Call) else {}
                if "no_cli" not in stated:
                    yield ast.literal_eval(stated.get("cli_name", ast.Constant(f"--{name.replace('_', '-')}")))
                    yield from ast.literal_eval(stated.get("aliases", ast.List([])))


LISTERS = {"vllm": list_vllm_names, "sglang": list_sglang_names}


if __name__ == "__main__":
    path = sys.argv[1]
    engine, version = path.rpartition("/")[2].split("-")[:2]
    with ZipFile(path) as found:
        rows = csv.writer(sys.stdout, lineterminator="\n")
        for kind, names in LISTERS[engine](found):
            rows.writerow([engine, version, kind, " ".join(names), f"wheel of {engine} {version} from PyPI, 2026-12"])
