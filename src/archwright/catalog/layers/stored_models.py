"""The models of the home as facts: an architecture and a file for each record that a fetch or `models add` wrote."""

from datetime import UTC, datetime

import msgspec

from archwright.catalog.tables.records import ModelSpec
from archwright.contract.plan import Artefact
from archwright.contract.stored_model import StoredModel, find_commercial_use
from archwright.home import Home

# Records are small; a larger file is not one.
RECORD_LIMIT_BYTES = 1 << 20


def read_stored_models(home: Home) -> tuple[StoredModel, ...]:
    """Return the models of the home by name; a damaged record is left out, since `models list` reports it."""
    found = []
    for path in home.stored_models.glob("*.json") if home.stored_models.is_dir() else ():
        try:
            if path.stat().st_size <= RECORD_LIMIT_BYTES:
                found.append(msgspec.json.decode(path.read_bytes(), type=StoredModel))
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            continue
    return tuple(sorted(found, key=lambda one: one.name))


def read_held_digests(home: Home) -> frozenset[str]:
    """Return the digests of the model files in the home, also of a file that an older version fetched."""
    if not home.stored_models.is_dir():
        return frozenset()
    return frozenset(path.stem for path in home.stored_models.iterdir() if path.suffix != ".json")


def build_artefact(stored: StoredModel) -> Artefact:
    return Artefact(
        name=stored.name,
        model=stored.model,
        package="",
        version="",
        member="",
        sha256=stored.sha256,
        size_bytes=stored.size_bytes,
        quantisation=stored.quantisation,
        licence=stored.licence,
        source=stored.source,
        template_tokens=stored.template_tokens,
        shared_prefix_tokens=stored.shared_prefix_tokens,
        template_tools=stored.template_tools,
        form=stored.form,
    )


def build_model_spec(stored: StoredModel) -> ModelSpec | None:
    """Return the architecture of a text model that the catalog may lack; its quality is not known."""
    if stored.task != "generate":
        return None
    shape, use = stored.architecture, find_commercial_use(stored.licence)
    return ModelSpec(
        id=stored.model,
        org="",
        parameters=shape.parameters,
        active_parameters=shape.active_parameters,
        layers=shape.layers,
        hidden=shape.hidden,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_width,
        ffn=shape.ffn,
        experts=shape.experts,
        experts_active=shape.experts_active,
        expert_ffn=shape.expert_ffn,
        shared_experts=0,
        vocabulary=shape.vocabulary,
        context_tokens=shape.context_tokens,
        attention="gqa",
        full_attention_layers=shape.layers,
        sliding_window=shape.sliding_window,
        kv_lora_rank=None,
        kv_bytes_per_token_bf16=None,
        licence=stored.licence,
        commercial_use=use,
        licence_conditions=""
        if use == "yes"
        else f"{stored.licence or 'its licence is not known'}: read it before use",
        released="",
        quality={},
        source=f"header of {stored.name} ({stored.source})",
        as_of=datetime.fromtimestamp(stored.added_at, UTC).date().isoformat(),
        confidence="high",
    )
