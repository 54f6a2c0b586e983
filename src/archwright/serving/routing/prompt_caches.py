"""Prompt caches of engines by tenant: what an engine is told, and whether its count of cached tokens is passed on.

An engine that reads the beginning of a prompt again from its cache answers sooner and reports the number of tokens. If
another tenant sent that beginning, both tell what it said. Engines with the field `cache_salt` get a digest of the
tenant. A llama.cpp server behind a URL gets `cache_prompt: false`. The count of any other engine is passed on only if
its cached tokens have a lower price, because the cost of a request then tells the same.

Design: a gateway whose keys belong to one tenant changes nothing for engines without the field.
"""

from collections.abc import Mapping
from types import MappingProxyType

from archwright.access.api_keys import KeyStore
from archwright.serving.routing.replica import Replica
from archwright.serving.settings.engine_fields import CACHE_SALT

MAX_SALTS = 4096
NO_FIELDS: Mapping[str, object] = MappingProxyType({})
WITHOUT_CACHE: Mapping[str, object] = MappingProxyType({"cache_prompt": False})
LLAMA_SERVERS = ("llamacpp", "llama-server")


class PromptCaches:
    """The choice for each request of a process."""

    def __init__(self, keys: KeyStore) -> None:
        self._keys = keys
        self._salts: dict[str, Mapping[str, object]] = {}

    def choose_fields(self, replica: Replica, tenant: str) -> Mapping[str, object]:
        """Return the fields that keep the prompts of `tenant` apart from those of others."""
        if replica.takes_cache_salt:
            return self._salts.get(tenant) or self._add_salt(tenant)
        if replica.engine in LLAMA_SERVERS and self._keys.serves_many_tenants:
            return WITHOUT_CACHE
        return NO_FIELDS

    def hides_hits(self, replica: Replica) -> bool:
        """True if a cached token may be of another tenant."""
        if replica.takes_cache_salt or replica.engine in LLAMA_SERVERS:  # it keeps tenants apart
            return False
        prices = replica.prices
        return self._keys.serves_many_tenants and (prices is None or not prices.discounts_cache)

    def _add_salt(self, tenant: str) -> Mapping[str, object]:
        if len(self._salts) >= MAX_SALTS:
            self._salts.clear()
        fields = self._salts[tenant] = MappingProxyType({CACHE_SALT: self._keys.digest_tenant(tenant)})
        return fields
