"""The trained model as training left it, in float32: what evaluation measures, and what the served one is held to.

One copy of the base in memory: it is read first, then the adapter is laid over it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from archwright.errors import ErrorLocation, ModelError, require_extra
from archwright.lifecycle import adapter_export, model_formats
from archwright.training import base_model, sequence_packing
from archwright.training.sequence_packing import EncodedSample

PACKED_TOKENS = 512


class ReferenceModel:
    """`folder` is the base's dequantised twin."""

    def __init__(self, folder: Path, threads: int) -> None:
        with require_extra("train", "evaluating a language model"):
            import torch  # noqa: PLC0415
        torch.set_num_threads(threads)
        self._model, self.tokenizer = base_model.load_base(folder, "float32")

    def load_adapter(self, folder: Path) -> None:
        """From now on the model is the base with the adapter in `folder`. A pickle is refused, a damaged file too."""
        with require_extra("train", "evaluating an adapter"):
            from peft import PeftModel  # noqa: PLC0415
        adapter_export.read_config(folder)
        if (
            not (folder / adapter_export.WEIGHTS_FILE).is_file()
            and (folder / adapter_export.PICKLED_WEIGHTS_FILE).is_file()
        ):
            model_formats.refuse_pickle(folder / adapter_export.PICKLED_WEIGHTS_FILE)
        model_formats.check_format(folder / adapter_export.WEIGHTS_FILE)
        with warnings.catch_warnings():
            # peft looks for the base's files by its name, and warns of what it does not find.
            warnings.simplefilter("ignore")
            try:
                self._model = PeftModel.from_pretrained(self._model, str(folder)).train(False)
            except (RuntimeError, ValueError) as error:
                raise ModelError(
                    "AW-MOD-03",
                    f"not an adapter that can be exported: it does not fit its base ({str(error).splitlines()[0]})",
                    where=ErrorLocation(str(folder)),
                    hint="train it again: archwright train SPEC",
                ) from error

    def find_whole_character(self) -> int:
        """A token that ends a character, whatever the vocabulary."""
        return int(self.tokenizer("a", add_special_tokens=False)["input_ids"][-1])

    def losses(self, items: Sequence[EncodedSample]) -> list[tuple[float, int]]:
        """For each item the sum of its negative log-likelihoods in nats, and over how many supervised tokens."""
        import torch  # noqa: PLC0415

        found: list[tuple[float, int]] = []
        with torch.inference_mode():
            for batch in _pack_batches(items):
                losses = sequence_packing.compute_losses(self._model, batch)
                for number in range(len(batch)):
                    mine = losses.values[losses.samples == number]
                    found.append((float(mine.sum()), len(mine)))
        return found

    def top_tokens(self, ids: Sequence[int], places: Sequence[int], top: int) -> list[dict[int, float]]:
        """At each place the `top` likeliest tokens to stand there, given those before it."""
        return [
            {int(token): float(row[token]) for token in row.topk(top).indices}
            for row in self._log_probabilities(ids, places)
        ]

    def _log_probabilities(self, ids: Sequence[int], places: Sequence[int]) -> Any:
        import torch  # noqa: PLC0415

        plain = self._model.get_base_model() if hasattr(self._model, "get_base_model") else self._model
        with torch.inference_mode():
            hidden = plain.base_model(input_ids=torch.tensor([list(ids)]), use_cache=False).last_hidden_state[0]
            chosen = hidden[[place - 1 for place in places]]
            return torch.log_softmax(plain.get_output_embeddings()(chosen).float(), dim=-1)


def _pack_batches(items: Sequence[EncodedSample]) -> Iterator[list[EncodedSample]]:
    """The items in order, as many at once as fit."""
    batch: list[EncodedSample] = []
    for item in items:
        if batch and sum(len(other.ids) for other in batch) + len(item.ids) > PACKED_TOKENS:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch
