"""The command line: parse, call the public function of the same name, print its result. No other logic."""

import argparse
import gc
import inspect
import io
import json
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

from archwright import __version__
from archwright.cli.step_display import show_steps
from archwright.cli.verbs import GROUPS, VERBS, Arg, Verb
from archwright.errors import ArchwrightError, ErrorLocation, UsageError, boundary

# Imports make many objects that stay: with Python's threshold of 700, the collector takes a tenth of a short command.
GC_THRESHOLD = 50_000
ARGUMENT_TYPES: dict[str, type] = {"text": str, "integer": int, "number": float}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError("AW-USE-07", message, where=ErrorLocation(self.prog), hint=f"{self.prog} --help")


def build_parser() -> argparse.ArgumentParser:
    top = _Parser(
        prog="archwright",
        description="Plan AI infrastructure, run it, and compare its predictions with measurements.",
        epilog="start with: archwright up    or: archwright init && archwright plan needs.yaml -o plan.json",
    )
    top.add_argument("--version", action="version", version=f"archwright {__version__}")
    verbs = top.add_subparsers(metavar="VERB", required=True)
    groups: dict[str, Any] = {}
    for verb in VERBS:
        *group, word = verb.words
        for name in group:
            if name not in groups:
                made = verbs.add_parser(name, help=GROUPS[name], description=GROUPS[name])
                groups[name] = made.add_subparsers(metavar="VERB", required=True)
        one = (groups[group[0]] if group else verbs).add_parser(word, help=verb.help, description=verb.help)
        one.set_defaults(verb=verb)
        one.add_argument("--json", action="store_true", dest="as_json", help="JSON instead of text")
        for arg in verb.args:
            _add_argument(one, arg)
    return top


def _add_argument(one: argparse.ArgumentParser, arg: Arg) -> None:
    text = arg.help.replace("%", "%%")  # argparse fills in texts by the operator %
    if arg.positional:
        one.add_argument(arg.name, nargs=None if arg.required else "?", help=text, metavar=arg.metavar or arg.name)
        return
    names = [f"--{arg.name.replace('_', '-')}", *([arg.short] if arg.short else [])]
    options: dict[str, Any] = {"dest": arg.name, "help": text}
    if arg.kind == "flag":
        options |= {"action": "store_true"}
    else:
        options |= {"metavar": arg.metavar or arg.name.upper(), "required": arg.required, "default": arg.default}
        options |= {"action": "append"} if arg.kind == "texts" else {"type": ARGUMENT_TYPES[arg.kind]}
    one.add_argument(*names, **options)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit status (errors.py lists them)."""
    words = sys.argv[1:] if argv is None else argv
    if argv is None:
        gc.set_threshold(GC_THRESHOLD)
    as_json = "--json" in words
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # an answer may hold characters that the terminal cannot show
    try:
        with boundary("command line"):
            return _run_unless_closed(words)
    except ArchwrightError as error:
        sys.stdout.flush()
        sys.stderr.write((json.dumps(error.as_dict()) if as_json else error.lines()) + "\n")
        return error.exit_status
    except KeyboardInterrupt:
        return 130


def _run_unless_closed(words: Sequence[str]) -> int:
    """Run the verb. If the reader closes the pipe (`| head`), end quietly like other tools."""
    parsed = build_parser().parse_args(words)
    verb: Verb = parsed.verb
    try:
        return _run_verb(verb, parsed)
    except ArchwrightError as error:
        if error.result is not None:
            _show_result(verb, error.result, parsed.as_json)
        raise
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _run_verb(verb: Verb, parsed: argparse.Namespace) -> int:
    function: Any = import_module("archwright.api")
    for part in verb.function.split("."):
        function = getattr(function, part)
    positional = [getattr(parsed, arg.name) for arg in verb.args if arg.positional]
    options = {arg.name: getattr(parsed, arg.name) for arg in verb.args if not arg.positional and not arg.of}
    for name in {arg.of for arg in verb.args if arg.of}:
        record = type(inspect.signature(function).parameters[name].default)
        options[name] = record(**{arg.name: getattr(parsed, arg.name) for arg in verb.args if arg.of == name})
    with show_steps(sys.stderr, hidden=parsed.as_json):
        result = function(*positional, **options)
    return _show_result(verb, result, parsed.as_json)


def _show_result(verb: Verb, result: object, as_json: bool) -> int:
    module, _, name = verb.show.rpartition(".")
    function = "as_json" if as_json else name
    status: int = getattr(import_module(f"archwright.cli.{module or 'show'}"), function)(result)
    return status
