from __future__ import annotations

from pathlib import Path

import pytest

from archwright.catalog.layers.stored_models import build_model_spec
from archwright.catalog.load import load_catalog
from archwright.engines.model_store import add_model
from archwright.home import Home

from ...tools.plain_gguf import write_gguf


@pytest.mark.parametrize(
    ("licence", "use"),
    [
        *(("apache-2.0", "yes"), ("MIT", "yes"), ("gemma", "conditional"), ("unknown", "conditional")),
        *(("cc-by-nc-4.0", "no"), ("qwen-research", "no"), ("llama3.2", "conditional")),
    ],
)
def test_the_licence_of_a_model_limits_its_use(tmp_path: Path, licence: str, use: str) -> None:
    spec = build_model_spec(add_model(write_gguf(tmp_path / "m.gguf"), "mine", licence, Home(tmp_path / "home")))
    assert spec is not None and spec.commercial_use == use and bool(spec.licence_conditions) == (use != "yes")


def test_every_model_of_the_hub_has_an_architecture_and_known_quantisations() -> None:
    catalog = load_catalog()
    assert len(catalog.hub_models) >= 20 and set(catalog.hub_models) <= set(catalog.models)
    sizes = [catalog.models[name].parameters for name in catalog.hub_models]
    assert min(sizes) < 0.6e9 and max(sizes) > 100e9
    for row in catalog.hub_models.values():
        files = [one for one in catalog.model_files[row.model] if one.repository]
        assert [one.quantisation for one in files] == list(row.quantisations) and not any(one.sha256 for one in files)
