from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from archwright.contract.record import replace
from archwright.engines.engine_config import adapter_settings, read_config
from archwright.engines.llamacpp import LlamaSettings
from archwright.engines.null import NullSettings

from ..tools.checks import refuses
from .conftest import make_config

CONFIG = make_config("null", socket="chat", alias="m", settings={"ttft_s": 1})


def test_a_configuration_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_bytes(msgspec.json.encode(CONFIG))
    assert read_config(path) == CONFIG
    assert adapter_settings(read_config(path), NullSettings).ttft_s == 1.0


SLOTLESS = msgspec.json.encode({**msgspec.to_builtins(CONFIG), "slots": 0})


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"engine": "other"}', b"\xff", SLOTLESS])
def test_a_broken_configuration_names_its_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "c.json"
    path.write_bytes(content)
    with refuses("AW-ENG-06") as refused:
        read_config(path)
    assert str(path) in str(refused.value.where)


@pytest.mark.parametrize(
    ("kind", "known", "settings"),
    [
        *(
            (LlamaSettings, "threads", {name: wrong})
            for name, wrong in {"threads": 0, "batch_tokens": 0, "x": 2}.items()
        ),
        (LlamaSettings, "threads", {"threads": "2"}),
        *((NullSettings, "ttft_s", wrong) for wrong in ({"ttft_s": -1}, {"text": " "}, {"dimensions": 0})),
    ],
)
def test_a_wrong_setting_lists_the_known_ones(kind: Any, known: str, settings: dict[str, Any]) -> None:
    with refuses("AW-ENG-06") as refused:
        adapter_settings(replace(CONFIG, settings=settings), kind)
    assert known in refused.value.hint
