"""Images in prompts: models that take them, and the tokens of an image by the model's own rule (image_models.csv).

An engine reads an image as tokens of the prompt, after an encoder. For sizing, the encoder's arithmetic counts as more
tokens: tokens x patches per token x encoder parameters / active parameters.
"""

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import HostedModel, ModelSpec
from archwright.contract.needs import TokenLength, Workload
from archwright.contract.number_format import format_number
from archwright.plan.demand.forecast import Demand
from archwright.plan.demand.model_selection import ModelCandidates
from archwright.plan.violations import build_violation

# Pixels of an image whose size the needs do not state.
ASSUMED_PIXELS = 1e6


def takes_images(workload: Workload) -> bool:
    return workload.kind == "vision-language" or "image" in workload.modalities


def keep_image_models(found: ModelCandidates, demand: Demand, catalog: Catalog) -> ModelCandidates:
    """Keep the models that take images and whose context also holds the image."""
    able = tuple(
        one
        for one in found.models
        if catalog.image_model("", one.id) is not None
        and add_image_tokens(demand, catalog, one.id).context_tokens <= one.context_tokens
    )
    if able or not found.models:
        return found._replace(models=able)
    miss = build_violation(f"{demand.workload.name}.modalities", "text models only", "a model that takes images")
    return found._replace(models=(), misses=(*found.misses, miss))


def add_image_tokens(demand: Demand, catalog: Catalog, model: str, provider: str = "") -> Demand:
    """Add the tokens of one image per request to the prompt; an unchanged demand if the workload has no images."""
    return _lengthen_prompt(demand, count_image_tokens(demand.workload, catalog, model, provider))


def add_image_work(demand: Demand, catalog: Catalog, model: ModelSpec) -> Demand:
    """Add the tokens of one image per request, and the encoder's arithmetic as further tokens."""
    tokens, rule = count_image_tokens(demand.workload, catalog, model.id), catalog.image_model("", model.id)
    return _lengthen_prompt(demand, tokens * (1 + rule.encoder_load(model.active_parameters))) if rule else demand


def count_image_tokens(workload: Workload, catalog: Catalog, model: str, provider: str = "") -> float:
    """Return the prompt tokens of an image; 0 if the workload has no images or the model takes none."""
    rule = catalog.image_model(provider, model) if takes_images(workload) else None
    stated = workload.traffic.image_pixels if workload.traffic is not None else None
    return rule.count_tokens(stated or ASSUMED_PIXELS) if rule is not None else 0.0


def describe_image_tokens(workload: Workload, catalog: Catalog, model: ModelSpec | HostedModel) -> str:
    provider = model.provider if isinstance(model, HostedModel) else ""
    rule = catalog.image_model(provider, model.id)
    tokens = count_image_tokens(workload, catalog, model.id, provider)
    counted = f"{workload.name}: an image counts as {format_number(tokens)} tokens of the prompt of {model.id}"
    source = rule.source if rule is not None else "unknown"
    if isinstance(model, HostedModel):
        return f"{counted} ({source})"
    work = tokens * rule.encoder_load(model.active_parameters) if rule is not None else 0.0
    return f"{counted}, and its encoder as {format_number(work)} more ({source}). `bench` sends text of this length"


def _lengthen_prompt(demand: Demand, tokens: float) -> Demand:
    read = demand.input_tokens
    return (
        demand._replace(input_tokens=TokenLength(mean=read.mean + tokens, p95=read.p95 + tokens)) if tokens else demand
    )
