"""Generate prompts of a given token length for an unknown tokenizer.

Design: the server's own usage figure for two prompts of different word counts gives tokens per word and the template's
overhead; a prompt of N tokens then has (N - overhead) / tokens-per-word common English words. Each prompt of a run
begins with a different pair of words, and the rest is random, so a prefix cache gives no unrealistic advantage.
"""

import random
from typing import NamedTuple

_WORDS = """
water river stone house garden window table chair bread apple orange paper letter music dance
winter summer spring morning evening light shadow forest mountain valley ocean island bridge road
street market village city country train horse bird fish animal flower tree leaf root seed field
farm corn milk sugar salt dinner kitchen door wall roof floor room school teacher student book
page story picture color number word voice song dream sleep walk run jump swim climb build carry
bring throw catch open close begin finish learn teach write read speak listen watch follow lead
help give take buy sell pay cost money gold silver iron wood glass cotton wool coat shirt shoe hat
ring clock minute hour week month year today yesterday tomorrow early late quick slow warm cold
dry wet soft hard long short wide narrow deep high low near far left right north south east west
happy sad quiet loud clean dirty rich poor young old new strong weak simple clear dark bright
green blue yellow black white brown round square full empty heavy free safe ready fresh sweet
bitter doctor nurse farmer driver sailor king queen friend neighbor mother father sister brother
child family baby uncle cousin
"""
WORDS: tuple[str, ...] = tuple(_WORDS.split())

# For servers that report no usage: English text with common vocabularies.
DEFAULT_TOKENS_PER_WORD = 1.3
DEFAULT_TEMPLATE_TOKENS = 8.0


class PromptTokenModel(NamedTuple):
    """The fit of two probes: a prompt of `w` words has `template + per_word * w` tokens."""

    per_word: float
    template: float
    guessed: bool = False

    def count_words(self, tokens: int) -> int:
        return max(1, round((tokens - self.template) / self.per_word))


def fit_token_model(probes: tuple[tuple[int, int | None], tuple[int, int | None]]) -> PromptTokenModel:
    """Fit tokens per word and overhead to two (words, prompt_tokens); use defaults if the server counts no tokens."""
    (short_words, short_tokens), (long_words, long_tokens) = probes
    if short_tokens is None or long_tokens is None or long_tokens <= short_tokens:
        return PromptTokenModel(DEFAULT_TOKENS_PER_WORD, DEFAULT_TEMPLATE_TOKENS, guessed=True)
    per_word = (long_tokens - short_tokens) / (long_words - short_words)
    return PromptTokenModel(per_word, max(0.0, short_tokens - per_word * short_words))


class PromptGenerator:
    """Generates prompts. `rng` must be new for each run, because a server may have cached the last run's prompts."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._order = rng.sample(WORDS, len(WORDS))
        self._made = 0

    def generate(self, words: int) -> str:
        first, second = divmod(self._made, len(self._order))
        self._made += 1
        opening = [self._order[second], self._order[first % len(self._order)]]
        return " ".join([*opening[:words], *self._rng.choices(WORDS, k=max(0, words - 2))])
