"""Keys with budgets and their spend, by a gateway's own administration. The keys expire after an hour."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, NamedTuple, Protocol

from .gateway_client import GatewayClient, GatewayRefused, encode_json

TENANT = "conformance"


class CreatedKey(NamedTuple):
    """A key. `id`: its name in the gateway's records."""

    id: str
    key: str


class KeyAdministration(Protocol):
    """`settle_s`: the longest time until a request is recorded."""

    settle_s: float
    client: GatewayClient

    async def create_keys(
        self, name: str, budget_usd: float, count: int, rpm: int | None = None
    ) -> tuple[CreatedKey, ...]:
        """Create keys. If there are several, they share the budget, as keys of one user or team.

        `rpm`: the requests per minute of each; None: any."""

    async def read_spend(self) -> dict[str, float]:
        """Return the USD that each key has spent, by its id."""


class ArchwrightAdministration:
    """The administration API of archwright (docs/gateway.md), with a key of the role owner."""

    settle_s = 10.0

    def __init__(self, client: GatewayClient, run: str) -> None:
        self.client, self._run = client, run

    async def create_keys(
        self, name: str, budget_usd: float, count: int, rpm: int | None = None
    ) -> tuple[CreatedKey, ...]:
        try:
            await self.client.post("/tenants", {"name": TENANT})
        except GatewayRefused as refused:
            if refused.status != HTTPStatus.CONFLICT:  # created before
                raise
        user = f"{self._run}-{name}"
        fields: dict[str, Any] = {"user": user, "name": user, "expires_in_days": 1 / 24}
        if rpm is not None:
            fields["rpm"] = rpm
        if count == 1:
            fields["budget_usd"] = budget_usd
        else:
            limits = encode_json({"budget_usd": budget_usd})
            await self.client.send_bytes("PUT", f"/tenants/{TENANT}/users/{user}/limits", limits)
        made = [await self.client.post(f"/tenants/{TENANT}/keys", fields) for _ in range(count)]
        return tuple(CreatedKey(one["id"], one["key"]) for one in made)

    async def read_spend(self) -> dict[str, float]:
        spent: dict[str, float] = {}
        for row in (await self.client.get(f"/tenants/{TENANT}/usage"))["data"]:
            spent[row["key"]] = spent.get(row["key"], 0.0) + row["cost_usd"]
        return spent


class LitellmAdministration:
    """The administration of the LiteLLM proxy, with its master key."""

    settle_s = 90.0  # the proxy writes the spend to its database every 10 s by default

    def __init__(self, client: GatewayClient, run: str) -> None:
        self.client, self._run = client, run
        self._keys: list[str] = []

    async def create_keys(
        self, name: str, budget_usd: float, count: int, rpm: int | None = None
    ) -> tuple[CreatedKey, ...]:
        fields: dict[str, Any] = {"duration": "1h", "max_budget": budget_usd}
        if count > 1:
            team = await self.client.post("/team/new", {"team_alias": f"{self._run}-{name}", "max_budget": budget_usd})
            fields = {"duration": "1h", "team_id": team["team_id"]}
        if rpm is not None:
            fields["rpm_limit"] = rpm
        keys = [(await self.client.post("/key/generate", fields))["key"] for _ in range(count)]
        self._keys += keys
        return tuple(CreatedKey(key, key) for key in keys)

    async def read_spend(self) -> dict[str, float]:
        # The reply names keys by their hashes, so each key has a request of its own.
        replies = {key: await self.client.post("/v2/key/info", {"keys": [key]}) for key in self._keys}
        return {key: sum(one.get("spend") or 0.0 for one in reply["info"]) for key, reply in replies.items()}
