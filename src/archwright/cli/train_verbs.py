"""The verbs of training."""

from __future__ import annotations

from archwright.cli.grammar import Verb

TRAIN_VERBS: tuple[Verb, ...] = ()
