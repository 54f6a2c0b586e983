"""The command line: parse, call the public function of the same name, print its result.

It has no other logic.
"""

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

# Imports make many objects that stay: with Python's threshold of 700, the collector takes a tenth
# of a short command.
GC_THRESHOLD = 50_000
DESCRIPTION = "Plan AI infrastructure, run it, and compare its predictions with measurements."
ARGUMENT_TYPES: dict[str, type] = {"text": str, "integer": int, "number": float}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        where = ErrorLocation(self.prog)
        raise UsageError("AW-USE-07", message, where=where, hint=f"{self.prog} --help")


def build_parser() -> argparse.ArgumentParser:
    planning = "archwright init && archwright plan needs.yaml -o plan.json"
    top = _Parser(
        prog="archwright",
        description=DESCRIPTION,
        epilog=f"start with: archwright up    or: {planning}",
    )
    top.add_argument("--version", action="version", version=f"archwright {__version__}")

    top_verbs: Any = top.add_subparsers(metavar="VERB", required=True)
    verbs_by_group: dict[str, Any] = {"": top_verbs}
    for verb in VERBS:
        group, _, word = verb.name.rpartition(" ")
        if group not in verbs_by_group:
            parser = top_verbs.add_parser(group, help=GROUPS[group], description=GROUPS[group])
            verbs_by_group[group] = parser.add_subparsers(metavar="VERB", required=True)
        _add_verb(verbs_by_group[group], word, verb)
    return top


def _add_verb(verbs: Any, word: str, verb: Verb) -> None:
    parser = verbs.add_parser(word, help=verb.help, description=verb.help)
    parser.set_defaults(verb=verb)
    parser.add_argument("--json", action="store_true", dest="as_json", help="JSON instead of text")
    for arg in verb.args:
        _add_argument(parser, arg)


def _add_argument(parser: argparse.ArgumentParser, arg: Arg) -> None:
    text = arg.help.replace("%", "%%")  # argparse fills in texts by the operator %
    if arg.positional:
        nargs = None if arg.required else "?"
        metavar = arg.metavar or arg.name
        parser.add_argument(arg.name, nargs=nargs, help=text, metavar=metavar)
        return

    word = arg.name.replace("_", "-")
    names = [f"--{word}"]
    if arg.short:
        names.append(arg.short)

    options: dict[str, Any] = {"dest": arg.name, "help": text}
    if arg.kind == "flag":
        options["action"] = "store_true"
    else:
        options["metavar"] = arg.metavar or arg.name.upper()
        options["required"] = arg.required
        options["default"] = arg.default
        if arg.kind == "texts":
            options["action"] = "append"
        else:
            options["type"] = ARGUMENT_TYPES[arg.kind]
    parser.add_argument(*names, **options)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit status (errors.py lists them)."""
    words = argv
    if words is None:
        words = sys.argv[1:]
        gc.set_threshold(GC_THRESHOLD)
    as_json = "--json" in words
    if isinstance(sys.stdout, io.TextIOWrapper):
        # An answer may hold characters that the terminal cannot show.
        sys.stdout.reconfigure(errors="replace")

    try:
        with boundary("command line"):
            return _run_unless_closed(words)
    except ArchwrightError as error:
        sys.stdout.flush()
        text = error.lines()
        if as_json:
            text = json.dumps(error.as_dict())
        sys.stderr.write(text + "\n")
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
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        return 141


def _run_verb(verb: Verb, parsed: argparse.Namespace) -> int:
    function: Any = import_module("archwright.api")
    for part in verb.function.split("."):
        function = getattr(function, part)

    positional: list[object] = []
    options: dict[str, object] = {}
    record_fields: dict[str, dict[str, object]] = {}
    for arg in verb.args:
        value = getattr(parsed, arg.name)
        if arg.positional:
            positional.append(value)
        elif arg.of:
            record_fields.setdefault(arg.of, {})[arg.name] = value
        else:
            options[arg.name] = value
    for name, fields in record_fields.items():
        parameter = inspect.signature(function).parameters[name]
        record = type(parameter.default)
        options[name] = record(**fields)

    with show_steps(sys.stderr, hidden=parsed.as_json):
        result = function(*positional, **options)
    return _show_result(verb, result, parsed.as_json)


def _show_result(verb: Verb, result: object, as_json: bool) -> int:
    module, _, name = verb.show.rpartition(".")
    function_name = "as_json" if as_json else name
    show_module = import_module(f"archwright.cli.{module or 'show'}")
    status: int = getattr(show_module, function_name)(result)
    return status
