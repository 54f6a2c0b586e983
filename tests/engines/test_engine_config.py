from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from archwright.contract.record import replace
from archwright.engines.engine_config import EngineConfig, adapter_settings, read_config
from archwright.engines.llamacpp import LlamaSettings
from archwright.engines.null import NullSettings
from archwright.errors import EngineError

CONFIG = EngineConfig(
    engine="null", socket="chat", alias="m", slots=1, context_tokens=64, default_max_tokens=8, settings={"ttft_s": 1}
)


def test_a_configuration_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_bytes(msgspec.json.encode(CONFIG))
    assert read_config(path) == CONFIG


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{",
        b'{"engine": "other"}',
        b"\xff",
        msgspec.json.encode({**msgspec.to_builtins(CONFIG), "slots": 0}),
    ],
)
def test_a_broken_configuration_names_its_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "c.json"
    path.write_bytes(content)
    with pytest.raises(EngineError) as refused:
        read_config(path)
    assert refused.value.code == "AW-ENG-06" and str(path) in str(refused.value.where)


def test_settings_are_the_adapters_own() -> None:
    assert adapter_settings(CONFIG, NullSettings).ttft_s == 1.0


@pytest.mark.parametrize("settings", [{"threads": 0}, {"batch_tokens": 0}, {"threads": "2"}, {"wings": 2}])
def test_a_wrong_setting_of_llamacpp_lists_the_known_ones(settings: dict[str, int | float | str | bool]) -> None:
    with pytest.raises(EngineError) as refused:
        adapter_settings(replace(CONFIG, settings=settings), LlamaSettings)
    assert refused.value.code == "AW-ENG-06" and "threads" in refused.value.hint


@pytest.mark.parametrize("settings", [{"ttft_s": -1}, {"text": " "}, {"dimensions": 0}])
def test_a_wrong_setting_of_null(settings: dict[str, int | float | str | bool]) -> None:
    with pytest.raises(EngineError):
        adapter_settings(replace(CONFIG, settings=settings), NullSettings)
