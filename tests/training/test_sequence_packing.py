"""Packed samples are trained on as if each stood alone, and the head that is skipped would have changed nothing."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from archwright.training import base_model, sequence_packing
from archwright.training.sequence_packing import EncodedSample

from .tiny_model import Tiny


@pytest.fixture(scope="module")
def model(tiny: Tiny) -> Any:
    """In float32, with weights large enough that every place matters to every later one."""
    found, _ = base_model.load_base(tiny.twin, "float32")
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in found.named_parameters():
            if "norm" not in name:
                parameter.normal_(0.0, 0.35)
    return found


def samples(seed: int = 1) -> list[EncodedSample]:
    drawn = random.Random(seed)
    found = []
    for length in (7, 1, 23, 2, 16):
        ids = [drawn.randrange(259) for _ in range(length)]
        start = drawn.randrange(length)
        found.append(EncodedSample(ids, [place >= start for place in range(length)]))
    return found


def alone(model: Any, sample: EncodedSample) -> torch.Tensor:
    """The losses of a sample by itself, by transformers' own forward: no mask, no positions, the head everywhere."""
    logits = model(input_ids=torch.tensor([sample.ids])).logits[0, :-1]
    targets = torch.tensor(sample.ids[1:], dtype=torch.long)
    values = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    return values[torch.tensor(sample.supervised[1:], dtype=torch.bool)]


@pytest.mark.nightly
def test_the_packed_losses_are_those_of_each_sample_alone(model: Any) -> None:
    """The control: one long sample of the same tokens has other losses, by far more than the tolerance."""
    batch = samples()
    joined = EncodedSample(
        [token for sample in batch for token in sample.ids],
        [place > 0 and yes for sample in batch for place, yes in enumerate(sample.supervised)],
    )
    with torch.no_grad():
        found = sequence_packing.compute_losses(model, batch)
        counts = [sum(sample.supervised[1:]) for sample in batch]
        assert torch.bincount(found.samples, minlength=5).tolist() == counts
        for number, sample in enumerate(batch):
            of_sample = found.values[found.samples == number]
            torch.testing.assert_close(of_sample, alone(model, sample), rtol=1e-5, atol=1e-5)
        together = sequence_packing.compute_losses(model, [joined]).values
        nothing = [EncodedSample([5], [True]), EncodedSample([1, 2], [True, False])]
        assert len(sequence_packing.compute_losses(model, nothing).values) == 0
    assert len(found.values) == len(together)
    assert float((found.values - together).abs().max()) > 0.1


def test_gradients_too_are_the_sum_of_each_samples(model: Any) -> None:
    batch = samples()
    weight = model.model.layers[0].self_attn.q_proj.weight
    sequence_packing.compute_losses(model, batch).values.sum().backward()
    packed = weight.grad.clone()
    model.zero_grad()
    for sample in batch:
        alone(model, sample).sum().backward()
    torch.testing.assert_close(packed, weight.grad, rtol=1e-4, atol=1e-5)
    model.zero_grad()
