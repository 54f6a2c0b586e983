"""Several samples in one row of tokens, none of which sees another.

A step's samples stand one after the other without padding; positions begin anew at each, and the attention mask is
block-diagonal and causal, so every sample's loss is what it would be alone (`test_sequence_packing` holds it
to that). The head, a third of the work, is asked only about the tokens that are learned from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple


class EncodedSample(NamedTuple):
    """A sample: its tokens, and for each whether it is learned from. The first never is: nothing stands before it."""

    ids: list[int]
    supervised: list[bool]


class TokenLosses(NamedTuple):
    """Cross-entropy of every supervised token in order (a float32 tensor), and the sample each belongs to."""

    values: Any
    samples: Any


def compute_losses(model: Any, batch: Sequence[EncodedSample]) -> TokenLosses:
    """`model` is a causal language model of transformers, or peft's around one."""
    import torch  # noqa: PLC0415

    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    ids = torch.tensor([token for sample in batch for token in sample.ids])
    samples = torch.tensor([number for number, sample in enumerate(batch) for _ in sample.ids])
    positions = torch.tensor([place for sample in batch for place in range(len(sample.ids))])
    learned = torch.tensor([yes and place > 0 for sample in batch for place, yes in enumerate(sample.supervised)])
    same = samples[:, None] == samples[None, :]
    mask = (same & torch.ones_like(same).tril())[None, None]
    hidden = plain.base_model(
        input_ids=ids[None], position_ids=positions[None], attention_mask=mask, use_cache=False
    ).last_hidden_state[0]
    # The state at a place predicts the token after it.
    before = hidden[:-1][learned[1:]]
    logits = plain.get_output_embeddings()(before).float()
    values = torch.nn.functional.cross_entropy(logits, ids[learned], reduction="none")
    return TokenLosses(values, samples[learned])
