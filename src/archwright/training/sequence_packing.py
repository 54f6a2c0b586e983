"""Sequence packing: the samples of a step in one row of tokens, without padding.

Positions restart at each sample and the attention mask is block-diagonal and causal, so the loss of a sample does not
depend on the others. The output head, a third of the work, is computed for supervised tokens only.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from archwright.lake.lazy_modules import torch


class EncodedSample(NamedTuple):
    """Tokens of a sample; `supervised` is True for a learned token. The first token is never learned."""

    ids: list[int]
    supervised: list[bool]


class TokenLosses(NamedTuple):
    """Cross-entropy of the supervised tokens in order (float32 tensor), and the sample of each."""

    values: Any
    samples: Any


def compute_losses(model: Any, batch: Sequence[EncodedSample]) -> TokenLosses:
    """`model` is a causal language model of transformers or a peft model around one."""
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    ids = torch.tensor([token for sample in batch for token in sample.ids])
    samples = torch.tensor([number for number, sample in enumerate(batch) for _ in sample.ids])
    positions = torch.tensor([place for sample in batch for place in range(len(sample.ids))])
    learned = torch.tensor([yes and place > 0 for sample in batch for place, yes in enumerate(sample.supervised)])
    same = samples[:, None] == samples[None, :]
    mask = (same & torch.ones_like(same).tril())[None, None]
    inputs = {"input_ids": ids[None], "position_ids": positions[None], "attention_mask": mask}
    hidden = plain.base_model(**inputs, use_cache=False).last_hidden_state[0]
    # The hidden state at a place predicts the next token.
    logits = plain.get_output_embeddings()(hidden[:-1][learned[1:]]).float()
    values = torch.nn.functional.cross_entropy(logits, ids[learned], reduction="none")
    return TokenLosses(values, samples[learned])
