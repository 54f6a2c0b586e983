"""Which engines read special tokens in texts, and what `doctor` says of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec
import pytest
from tests.engines.conftest import make_config
from tests.serving.conftest import endpoint, table

from archwright import api
from archwright.serving.routing.pool_registry import PoolRegistry

if TYPE_CHECKING:
    from archwright.home import Home

DIGEST = "5" * 64
OURS = endpoint(pool="ours", addresses=("unix:ours",), engine="vllm")
FOREIGN = endpoint(pool="foreign", workload="foreign", addresses=("http://e:8000/v1",), engine="vllm")
HOSTED = endpoint(pool="hosted", workload="hosted", addresses=("https://e/v1",))
EMBEDDED = endpoint(pool="embedded", workload="embedded", addresses=("unix:embedded",), engine="llamacpp")
TABLE = table(OURS, FOREIGN, HOSTED, EMBEDDED)
MESSAGES = [{"role": "user", "content": "<s>"}]


def write_engine(home: Home, *, tokenizer: bool = True) -> None:
    config = make_config("vllm", socket="ours", model_sha256=DIGEST)
    home.config("ours").write_bytes(msgspec.json.encode(config))
    folder = home.model_folder(DIGEST)
    folder.mkdir(parents=True, exist_ok=True)
    if not tokenizer:
        return
    tokens = {"added_tokens": [{"id": 1, "content": "<s>", "special": True}]}
    (folder / "tokenizer.json").write_text(json.dumps(tokens))


def test_the_gateway_breaks_tokens_for_its_own_vllm(home: Home) -> None:
    write_engine(home)
    pools = PoolRegistry(TABLE.pools, home).pools
    sent = {
        name: pool.replicas[0].break_special_tokens({"messages": MESSAGES, "prompt": "<s>"})
        for name, pool in pools.items()
    }
    broken = {"messages": [{"role": "user", "content": "<\u2060s>"}], "prompt": "<s>"}
    unchanged = {"messages": MESSAGES, "prompt": "<s>"}
    assert sent == {"ours": broken, "foreign": unchanged, "hosted": unchanged, "embedded": unchanged}


@pytest.mark.enable_socket
def test_doctor_names_the_pools_that_are_not_protected(home: Home) -> None:
    def check() -> tuple[str, str]:
        found = next(check for check in api.doctor() if check.name == "special tokens")
        return found.state, found.detail

    assert check() == ("ok", "no pool reads them in texts of users")
    home.config("gateway").write_bytes(msgspec.json.encode(TABLE))
    write_engine(home, tokenizer=False)
    assert check() == ("warning", "not protected: ours, foreign")
    write_engine(home)
    assert check() == ("warning", "not protected: foreign")
