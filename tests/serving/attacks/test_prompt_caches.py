"""No tenant learns from an engine's prompt cache what another tenant asked."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from tests.serving.fake_provider import Place, whole

if TYPE_CHECKING:
    from tests.serving.conftest import Platform, Start

pytestmark = pytest.mark.enable_socket
WORDS = ("anchor", "basil", "cobalt", "dune", "ember", "fjord", "garnet", "harbor")
USAGE = {"prompt_tokens": 64, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 32}}
CHOICE = {"index": 0, "message": {"role": "assistant", "content": "a"}, "finish_reason": "stop"}
COUNTED = {"choices": [CHOICE], "usage": USAGE}


class Tenants(NamedTuple):
    platform: Platform
    keys: dict[str, str]

    def count_cached(self, tenant: str, text: str) -> int:
        """Send a chat, and return the cached tokens that the tenant sees."""
        messages = [{"role": "user", "content": text}]
        reply = self.platform.chat(self.keys[tenant], messages=messages, model="smol", max_tokens=1)
        assert reply.status == 200
        return read_cached_tokens(reply.json)


def read_cached_tokens(body: Any) -> int:
    count: int = body["usage"].get("prompt_tokens_details", {}).get("cached_tokens", 0)
    return count


@pytest.fixture(scope="module")
def tenants(llama: Platform) -> Tenants:
    return Tenants(llama, {name: llama.made_key(name) for name in ("alpha", "beta", "gamma")})


@pytest.fixture(scope="module")
def secrets() -> Iterator[str]:
    """Fresh secret texts of the same length."""
    draw = random.Random(5)
    return (
        f"Branch {number}. The password list of our branch is: {' '.join(draw.sample(WORDS, len(WORDS)))}."
        for number in itertools.count()
    )


def test_a_right_prompt_of_another_tenant_looks_like_a_wrong_one(tenants: Tenants, secrets: Iterator[str]) -> None:
    tenants.count_cached("beta", next(secrets))
    secret = next(secrets)
    tenants.count_cached("alpha", secret)
    right = tenants.count_cached("beta", secret)
    wrong = tenants.count_cached("beta", next(secrets))
    assert right == wrong


def test_more_tenants_than_slots_share_nothing(tenants: Tenants, secrets: Iterator[str]) -> None:
    secret = next(secrets)
    tenants.count_cached("alpha", secret)
    tenants.count_cached("beta", next(secrets))
    assert tenants.count_cached("gamma", secret) == 0
    assert tenants.count_cached("alpha", secret) == 0, "its slot changed its tenant"


def test_a_tenant_keeps_its_own_prompt(tenants: Tenants, secrets: Iterator[str]) -> None:
    secret = next(secrets)
    first = tenants.count_cached("alpha", secret)
    tenants.count_cached("beta", next(secrets))
    assert tenants.count_cached("alpha", secret) > first + len(WORDS)


@pytest.mark.parametrize("field", ["cache_salt", "id_slot", "extra_key"])
def test_no_client_chooses_the_cache(llama: Platform, field: str) -> None:
    fields: dict[str, Any] = {"model": "smol", field: "x"}
    refused = llama.chat(**fields)
    assert refused.status == 400 and refused.error["param"] == field


def test_engines_behind_urls_keep_tenants_apart(start: Start, place: Place) -> None:
    spec = {"addresses": (place.url,), "health_path": ""}
    kinds = ("vllm", "sglang", "llamacpp", "openai")
    endpoints = [{**spec, "model": kind, "workload": kind, "pool": kind, "engine": kind} for kind in kinds]
    platform = start(endpoints, [])
    place.script = whole(COUNTED)

    def ask(kind: str, key: str) -> tuple[int, dict[str, Any]]:
        reply = platform.chat(key, model=kind)
        return read_cached_tokens(reply.json), place.last.body

    alone = {kind: ask(kind, platform.key) for kind in kinds}
    assert {kind: cached for kind, (cached, _) in alone.items()} == dict.fromkeys(kinds, 32)
    assert not {"cache_salt", "cache_prompt"} & (alone["openai"][1].keys() | alone["llamacpp"][1].keys())

    other = platform.made_key("other")
    platform.until(lambda: ask("openai", platform.key)[0] == 0)
    for kind in ("vllm", "sglang"):
        (cached, mine), (_, theirs) = ask(kind, platform.key), ask(kind, other)
        assert cached == 32 and mine["cache_salt"] == alone[kind][1]["cache_salt"] != theirs["cache_salt"]
        assert "acme" not in mine["cache_salt"] and len(mine["cache_salt"]) == 32
    assert ask("llamacpp", other)[1]["cache_prompt"] is False
    assert ask("openai", other)[0] == 0 and "cache_salt" not in place.last.body
    assert platform.chat(other, model="vllm", cache_salt="x").status == 400
