"""LoRA fine-tuning of a causal language model on texts, or on prompts with completions.

Design: frozen bfloat16 base; float32 adapters on all seven projections; no dropout, so that a checkpoint needs no
generator state; AdamW without weight decay; gradients clipped at norm 1; learning rate with linear warm-up over a
twentieth of the steps and cosine decay to a tenth. Prompts use the model's chat template, as in serving; only
completions are supervised. Equal thread counts on the same machine give the same bytes.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from archwright.errors import ErrorLocation, TrainError, require_extra
from archwright.lake.lazy_modules import tensor_files, torch
from archwright.training import base_model, sequence_packing
from archwright.training.sequence_packing import EncodedSample
from archwright.training.trainer import StepResult, TrainedArtefact, TrainerSetup
from archwright.training.training_spec import TrainSpec

LEARNING_RATE = 2e-3
WARM_UP = 20
RATE_FLOOR = 0.1
MAX_GRADIENT_NORM = 1.0
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# Scaling of logits after the head in some architectures; the loss here does not apply it.
LOGIT_SCALING_FIELDS = ("final_logit_softcapping", "logits_scaling", "logit_scale")
WEIGHTS_FILE, CONFIG_FILE = "adapter_model.safetensors", "adapter_config.json"
STATE_FILE, MOMENTS_FILE, STEPS_FILE = "adapter.safetensors", "moments.safetensors", "steps.json"


class CompactSample(NamedTuple):
    """An encoded row in compact form: `start` is the first supervised token."""

    ids: array[int]
    start: int

    def expand(self) -> EncodedSample:
        return EncodedSample(list(self.ids), [place >= self.start for place in range(len(self.ids))])


def make_trainer(setup: TrainerSetup) -> LoraTrainer:
    with require_extra("train", "training a language model"):
        import peft  # noqa: F401, PLC0415 - a missing package is reported before the base is loaded
    torch.set_num_threads(setup.threads)
    torch.use_deterministic_algorithms(True)
    folder = base_model.prepare_base(setup.home, setup.base_sha256, setup.spec.base)
    return LoraTrainer(*base_model.load_base(folder, "bfloat16"), setup)


def encode_row(tokenizer: Any, row: Mapping[str, Any], spec: TrainSpec) -> EncodedSample:
    """At most `tokens_per_step` tokens: a long prompt loses its beginning, a completion its end."""
    limit, end = spec.tokens_per_step, tokenizer.eos_token or ""
    if spec.columns.text is not None:
        ids = _tokenise_text(tokenizer, f"{row[spec.columns.text]}{end}")[:limit]
        return EncodedSample(ids, [place > 0 for place in range(len(ids))])
    prompt = _tokenise_text(tokenizer, format_prompt(tokenizer, str(row[spec.columns.prompt])))
    completion = _tokenise_text(tokenizer, f"{row[spec.columns.completion]}{end}")
    prompt = prompt[-max(limit // 2, limit - len(completion)) :]
    ids = (prompt + completion)[:limit]
    return EncodedSample(ids, [place >= len(prompt) for place in range(len(ids))])


def format_prompt(tokenizer: Any, prompt: str) -> str:
    """The prompt in the model's chat template up to the answer; unchanged for a model without a template."""
    if not tokenizer.chat_template:
        return prompt
    messages = [{"role": "user", "content": prompt}]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def _tokenise_text(tokenizer: Any, text: str) -> list[int]:
    found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return found


def add_adapters(model: Any, spec: TrainSpec) -> Any:
    """The model with new adapters, initialised from the seed and without effect yet.

    Raises TrainError AW-TRN-32 for an unsupported architecture.
    """
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415

    there = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    scaled = [name for name in LOGIT_SCALING_FIELDS if getattr(model.config, name, None) not in (None, 1, 1.0)]
    if not set(PROJECTIONS) <= there or scaled:
        reason = f"it uses {', '.join(scaled)}" if scaled else f"it lacks {', '.join(sorted({*PROJECTIONS} - there))}"
        message = f"the architecture of {spec.base} is not supported by this LoRA, which needs one like llama: {reason}"
        hint = "choose another base: archwright models list"
        raise TrainError("AW-TRN-32", message, where=ErrorLocation(field="base"), hint=hint)
    torch.manual_seed(spec.seed)
    config = LoraConfig(
        r=spec.rank, lora_alpha=spec.alpha, lora_dropout=0.0, target_modules=list(PROJECTIONS), task_type="CAUSAL_LM"
    )
    with warnings.catch_warnings():
        # peft looks for the base's files by name and warns if it finds none.
        warnings.simplefilter("ignore")
        return get_peft_model(model, config)


def compute_learning_rate(spec: TrainSpec, done: int) -> float:
    top = spec.learning_rate or LEARNING_RATE
    rising = min(1.0, (done + 1) / max(1, spec.steps // WARM_UP))
    falling = 0.5 * (1.0 + math.cos(math.pi * done / spec.steps))
    return top * rising * (RATE_FLOOR + (1.0 - RATE_FLOOR) * falling)


class LoraTrainer:
    def __init__(self, model: Any, tokenizer: Any, setup: TrainerSetup) -> None:
        self._spec = setup.spec
        self._group = setup.group
        self._model = add_adapters(model, setup.spec)
        self._named = {name: p for name, p in self._model.named_parameters() if p.requires_grad}
        self._parameters = list(self._named.values())
        self._optimiser = torch.optim.AdamW(self._parameters, lr=1.0, weight_decay=0.0, fused=True)
        self._done = 0
        self._rows: list[CompactSample] = []
        for row in setup.data.train.table.to_pylist():
            sample = encode_row(tokenizer, row, setup.spec)
            start = next((place for place, learned in enumerate(sample.supervised) if learned), len(sample.ids))
            self._rows.append(CompactSample(array("i", sample.ids), start))

    def lengths(self) -> Sequence[int]:
        return [len(row.ids) for row in self._rows]

    def budget(self) -> int:
        return self._spec.tokens_per_step

    def step(self, rows: Sequence[int]) -> StepResult:
        """A step with a non-finite loss or gradient changes nothing and returns a NaN loss."""
        batch = [self._rows[row].expand() for row in rows]
        loss, learned = torch.zeros(()), sum(any(sample.supervised[1:]) for sample in batch)
        if learned:
            found = sequence_packing.compute_losses(self._model, batch)
            loss, learned = found.values.mean(), len(found.values)
            loss.backward()
        loss = loss.detach()
        for parameter in self._parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self._group.mean([*(p.grad for p in self._parameters), loss], float(learned))
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, MAX_GRADIENT_NORM)
        units = sum(len(sample.ids) for sample in batch)
        if not math.isfinite(float(norm)) or not math.isfinite(float(loss)):
            self._optimiser.zero_grad()
            return StepResult(math.nan, units)
        for group in self._optimiser.param_groups:
            group["lr"] = compute_learning_rate(self._spec, self._done)
        self._optimiser.step()
        self._optimiser.zero_grad()
        self._done += 1
        return StepResult(float(loss), units)

    def state(self) -> dict[str, bytes]:
        held = self._optimiser.state_dict()["state"]
        names = list(self._named)
        moments = {f"{kind}/{names[place]}": value for place, kinds in held.items() for kind, value in kinds.items()}
        return {
            STATE_FILE: tensor_files.save({name: parameter.detach() for name, parameter in self._named.items()}),
            MOMENTS_FILE: tensor_files.save(moments),
            STEPS_FILE: msgspec.json.encode({"steps": self._done}),
        }

    def restore(self, state: Mapping[str, bytes]) -> None:
        held = tensor_files.load(state[STATE_FILE])
        with torch.no_grad():
            for name, parameter in self._named.items():
                parameter.copy_(held[name])
        places = {name: place for place, name in enumerate(self._named)}
        moments: dict[int, dict[str, Any]] = {}
        for key, value in tensor_files.load(state[MOMENTS_FILE]).items():
            kind, _, name = key.partition("/")
            moments.setdefault(places[name], {})[kind] = value
        groups = self._optimiser.state_dict()["param_groups"]
        self._optimiser.load_state_dict({"state": moments, "param_groups": groups})
        self._done = msgspec.json.decode(state[STEPS_FILE], type=dict[str, int])["steps"]

    def weights_sha256(self) -> str:
        digest = hashlib.sha256()
        for name, parameter in sorted(self._named.items()):
            digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}\n".encode())
            digest.update(parameter.detach().numpy().tobytes())
        return digest.hexdigest()

    def save(self, folder: Path) -> TrainedArtefact:
        """Save the adapter in peft's format; the base is stored by name, not by path."""
        from peft import get_peft_model_state_dict  # noqa: PLC0415

        config = self._model.peft_config["default"]
        config.base_model_name_or_path = self._spec.base
        config.inference_mode = True
        config.save_pretrained(folder)
        # No embedding was trained; by default peft would look for the base's files by name.
        found = get_peft_model_state_dict(self._model, save_embedding_layers=False)
        weights = {name: value.contiguous() for name, value in found.items()}
        tensor_files.save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        return TrainedArtefact(format="safetensors", file=WEIGHTS_FILE)
