"""The terminal output of a platform that was started, and of its answers."""

import sys
from collections.abc import Iterator

from archwright.api.platform_lifecycle import AnswerStream, PlatformHandle
from archwright.cli import show
from archwright.cli.show import (
    format_proposal,
    make_console,
    print_missed_limits,
    print_probe_load,
    print_text,
)
from archwright.errors import replace_control_characters

# In place of a key that an earlier start made.
_KEY_COMMANDS = "see archwright key list, or make another: archwright key create"
HIDDEN_KEY = f"(shown when it was made; {_KEY_COMMANDS})"


def as_json(result: object) -> int:
    """Print JSON: of a platform its start, of an answer its text and origin.

    Wait for the platform unless it is detached.
    """
    if isinstance(result, PlatformHandle):
        show.as_json(result.started)
        if result.detached:
            return 0
        return result.wait()
    if isinstance(result, AnswerStream):
        text = "".join(result)  # the stream knows its model from the first piece on
        return show.as_json({"text": text, "model": result.model, "request": result.request})
    return show.as_json(result)


def print_platform(result: PlatformHandle) -> int:
    """Print the address, a key that this start made, and three commands.

    Wait for the end unless the platform is detached.
    """
    started = result.started
    print_text(f"url  {started.url}/v1")
    print_text(f"key  {started.key or HIDDEN_KEY}")
    print_text("\ntry:")
    print_text('  archwright ask "What is machine learning, in one sentence?"')
    print_text("  archwright bench")
    print_text(f"  curl -s {started.url}/v1/models -H 'authorization: Bearer KEY'")

    for proposal in started.proposals:
        text = format_proposal(proposal, "archwright down, then archwright up --download")
        print_text(f"\n{text}")
    if started.missed_limits:
        print_missed_limits(make_console(), started.missed_limits)
    if started.missed_limits or started.busy_share is not None:
        print_probe_load(make_console(), started.busy_share)

    sys.stdout.flush()
    if result.detached:
        return 0
    print_text("\nrunning; Ctrl-C stops the platform")
    sys.stdout.flush()
    return result.wait()


def print_stream(result: Iterator[str]) -> int:
    for piece in result:
        sys.stdout.write(replace_control_characters(piece))
        sys.stdout.flush()
    sys.stdout.write("\n")
    if isinstance(result, AnswerStream) and sys.stderr.isatty():
        origin = f"archwright lineage {result.request}"
        sys.stderr.write(f"({result.model}; its origin: {origin})\n")
    return 0
