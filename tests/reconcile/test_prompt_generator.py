from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from archwright.reconcile.prompt_generator import (
    DEFAULT_TOKENS_PER_WORD,
    WORDS,
    PromptGenerator,
    PromptTokenModel,
    fit_token_model,
)


@given(st.floats(0.5, 4), st.integers(0, 60))
def test_two_probes_recover_a_linear_tokenizer(per_word: float, template: int) -> None:
    tokens = fit_token_model(((8, round(template + 8 * per_word)), (72, round(template + 72 * per_word))))
    assert not tokens.guessed
    assert abs(tokens.per_word - per_word) <= 1 / 64
    for wanted in (100, 500, 2000):
        made = template + per_word * tokens.count_words(wanted)
        assert abs(made - wanted) <= 2 + 0.05 * wanted


def test_a_server_that_counts_nothing_or_nonsense_is_guessed() -> None:
    for probes in (((8, None), (72, None)), ((8, 20), (72, None)), ((8, 50), (72, 50)), ((8, 50), (72, 20))):
        tokens = fit_token_model(probes)
        assert tokens.guessed
        assert tokens.per_word == DEFAULT_TOKENS_PER_WORD


def test_a_prompt_shorter_than_the_template_still_makes_a_word() -> None:
    assert PromptTokenModel(1.0, 30.0).count_words(5) == 1


@given(st.integers(0, 2**32), st.integers(2, 40))
def test_no_two_prompts_of_a_run_open_alike(seed: int, words: int) -> None:
    prompter = PromptGenerator(random.Random(seed))
    prompts = [prompter.generate(words).split() for _ in range(500)]
    assert all(len(prompt) == words for prompt in prompts)
    assert len({tuple(prompt[:2]) for prompt in prompts}) == len(prompts)
    assert prompts[0][0] != prompts[1][0]


def test_one_word_and_two_runs() -> None:
    assert PromptGenerator(random.Random(1)).generate(1) in WORDS
    assert PromptGenerator(random.Random(1)).generate(30) != PromptGenerator(random.Random(2)).generate(30)
