"""The verbs of the data lake."""

from __future__ import annotations

from archwright.cli.grammar import Verb

DATA_VERBS: tuple[Verb, ...] = ()
