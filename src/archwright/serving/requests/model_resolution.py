"""Resolve model names: a workload or alias means its endpoint and version, a model means the untuned model."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from archwright.contract.record import replace
from archwright.serving.http.errors import unknown_model
from archwright.serving.settings.config import (
    UNKNOWN_CONTEXT_TOKENS,
    Endpoint,
    EndpointSpec,
    EnginePoolSpec,
    find_context,
)
from archwright.serving.settings.engine_fields import combine_rules
from archwright.serving.settings.prices import combine_prices

NO_CONTEXTS: Mapping[str, int] = MappingProxyType({})


class ResolvedModel(NamedTuple):
    """The requested name and its endpoints (at least one) in the plan's order.

    `plain`: the request is for the plan's model itself, not for the version that an endpoint serves."""

    name: str
    endpoints: tuple[Endpoint, ...]
    plain: bool


class ModelDirectory:
    """Endpoints by name of model or workload; classifiers by workload."""

    def __init__(
        self,
        pools: Iterable[EnginePoolSpec],
        endpoints: Iterable[EndpointSpec],
        image_hosts: tuple[str, ...] = (),
        contexts: Mapping[str, int] = NO_CONTEXTS,
    ) -> None:
        """`contexts`: the context that the engines of a pool state, by the pool's name."""
        known = {pool.name: pool for pool in pools}
        resolved = [replace(_resolve_endpoint(spec, known, contexts), image_hosts=image_hosts) for spec in endpoints]
        texts = [spec for spec in resolved if spec.kind == "text"]
        self.endpoints = tuple(texts)
        # Valid values of `model`: every model, then every workload, then every alias.
        aliases = [alias for spec in texts for alias in spec.aliases]
        self.names = tuple(dict.fromkeys([*(s.model for s in texts), *(s.workload for s in texts), *aliases]))
        tuned = {name for name, pool in known.items() if pool.adapter}
        self._workloads = {*(spec.workload for spec in texts), *aliases}
        self._by_name: dict[str, tuple[Endpoint, ...]] = {}
        for name in self.names:
            fit = [spec for spec in texts if name in (spec.model, spec.workload, *spec.aliases)]
            # The workload of this name comes first. A pool without an adapter serves a model itself best.
            fit.sort(key=lambda s: s.workload != name if name in self._workloads else s.pool in tuned)
            self._by_name[name] = tuple(fit)
        self._predictors = {spec.workload: spec for spec in resolved if spec.kind == "predict"}

    def resolve(self, model: str, workload: str | None) -> ResolvedModel:
        fit = self._by_name.get(model, ())
        if workload is not None:
            fit = tuple(spec for spec in fit if spec.workload == workload)
        if not fit:
            scope = "" if workload is None else f" for the workload {workload[:80]!r}"
            raise unknown_model(model, scope)
        return ResolvedModel(model, fit, plain=workload is None and model not in self._workloads)

    def read_context(self, name: str) -> int | None:
        """Return the tokens of a model's context; None if unknown."""
        known = [spec.context_tokens for spec in self._by_name.get(name, ())]
        return min((tokens for tokens in known if tokens < UNKNOWN_CONTEXT_TOKENS), default=None)

    def find_classifier(self, name: str) -> Endpoint | None:
        """Return the endpoint of /v1/predict/`name`."""
        return self._predictors.get(name)


def _resolve_endpoint(spec: EndpointSpec, known: dict[str, EnginePoolSpec], contexts: Mapping[str, int]) -> Endpoint:
    pools = [known[name] for name in spec.serving_pools]
    protocols = {pool.protocol for pool in pools}
    fields = {name: getattr(spec, name) for name in EndpointSpec.__struct_fields__}
    stated = [contexts.get(target.pool, 0) for target in spec.targets]
    prices = [pool.prices for pool in pools]
    fields["context_tokens"] = min(filter(None, (spec.context_tokens, find_context(pools), *stated)))
    return Endpoint(
        **fields,
        strict=any(pool.strict for pool in pools),
        stops=all(pool.stops_when_left for pool in pools),
        protocol=protocols.pop() if len(protocols) == 1 else "",
        vision=all(pool.vision for pool in pools),
        responses=all(pool.responses for pool in pools),
        input_bound=max(pool.context_tokens or UNKNOWN_CONTEXT_TOKENS for pool in pools),
        image_tokens=max(pool.image_tokens for pool in pools),
        serves=spec.tuned_version or known[spec.pool].serves,
        rules=combine_rules(pool.field_rules for pool in pools),
        charged=any(one is not None for one in prices),
        long_context=all(one.long_context for one in prices if one is not None),
        prices=combine_prices(prices),
    )
