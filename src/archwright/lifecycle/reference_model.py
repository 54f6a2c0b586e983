"""The trained model in float32: its quality is measured, and the served model is compared with it.

Memory holds one copy of the base: it is loaded first, then the adapter is added.
"""

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from archwright.errors import ErrorLocation, ModelError, require_extra
from archwright.lake.lazy_modules import torch
from archwright.lifecycle import adapter_export
from archwright.training import base_model, sequence_packing
from archwright.training.sequence_packing import EncodedSample

PACKED_TOKENS = 512


class ReferenceModel:
    """`folder` is the dequantised copy of the base."""

    def __init__(self, folder: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        self._model, self.tokenizer = base_model.load_base(folder, "float32")

    def load_adapter(self, folder: Path) -> None:
        """Add the adapter in `folder` to the base, in place of the one added before.

        Raises ModelError AW-MOD-01 to -03 for an invalid adapter.
        """
        with require_extra("train", "evaluating an adapter"):
            from peft import PeftModel  # noqa: PLC0415
        adapter_export.read_config(folder)
        adapter_export.check_weights(folder)
        if isinstance(self._model, PeftModel):
            self._model = self._model.unload()
        with warnings.catch_warnings():
            # peft looks for the base's files by name and warns if it finds none.
            warnings.simplefilter("ignore")
            try:
                self._model = PeftModel.from_pretrained(self._model, str(folder)).train(False)
            except (RuntimeError, ValueError) as error:
                message = f"this adapter cannot be exported: it does not fit its base ({str(error).splitlines()[0]})"
                hint = "train it again: archwright train SPEC"
                raise ModelError("AW-MOD-03", message, where=ErrorLocation(str(folder)), hint=hint) from error

    def find_whole_character(self) -> int:
        """A token that ends a character in any vocabulary."""
        return int(self.tokenizer("a", add_special_tokens=False)["input_ids"][-1])

    def losses(self, items: Sequence[EncodedSample]) -> list[tuple[float, int]]:
        """For each item the sum of negative log-likelihoods in nats and the number of supervised tokens."""
        found: list[tuple[float, int]] = []
        with torch.inference_mode():
            for batch in _pack_batches(items):
                losses = sequence_packing.compute_losses(self._model, batch)
                for number in range(len(batch)):
                    of_sample = losses.values[losses.samples == number]
                    found.append((float(of_sample.sum()), len(of_sample)))
        return found

    def top_tokens(self, ids: Sequence[int], places: Sequence[int], top: int) -> list[dict[int, float]]:
        """For each place the `top` likeliest tokens, given the tokens before the place."""
        plain = self._model.get_base_model() if hasattr(self._model, "get_base_model") else self._model
        with torch.inference_mode():
            hidden = plain.base_model(input_ids=torch.tensor([list(ids)]), use_cache=False).last_hidden_state[0]
            chosen = hidden[[place - 1 for place in places]]
            rows = torch.log_softmax(plain.get_output_embeddings()(chosen).float(), dim=-1)
        return [{int(token): float(row[token]) for token in row.topk(top).indices} for row in rows]


def _pack_batches(items: Sequence[EncodedSample]) -> Iterator[list[EncodedSample]]:
    """The items in order, in batches of at most PACKED_TOKENS."""
    batch: list[EncodedSample] = []
    for item in items:
        if batch and sum(len(other.ids) for other in batch) + len(item.ids) > PACKED_TOKENS:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch
