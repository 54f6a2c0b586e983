"""The commands of a bundle's README, so that a test runs what a person would."""

from __future__ import annotations

import re

CODE = re.compile(r"```sh\n(?P<block>.*?)```|`(?P<span>[^`]+)`", re.DOTALL)


def read_commands(readme: str, section: str) -> list[str]:
    """Return the blocks of shell code of a section and its spans of code with more than one word, in their order."""
    start = readme.index(f"\n## {section}\n")
    text = readme[start + 1 :].partition("\n## ")[0]
    commands = list[str]()
    for found in CODE.finditer(text):
        span = found["span"] or ""
        if found["block"]:
            commands.append(re.sub(r"^ +", "", found["block"], flags=re.MULTILINE))
        elif " " in span:
            commands.append(span)
    return commands
