"""The file that a model, a model with a quantisation, or a file name means."""

import pytest

from archwright.catalog.load import load_catalog
from archwright.catalog.model_file_names import find_model_file
from archwright.errors import CatalogError

SMALL = "SmolLM2-135M-Instruct"


def test_the_file_of_a_name() -> None:
    catalog = load_catalog()
    wheel = catalog.artefacts[SMALL]
    assert find_model_file(SMALL, catalog) == find_model_file(wheel.name, catalog) == wheel
    computed = find_model_file(f"{SMALL}:Q8_0", catalog)
    assert (computed.sha256, computed.size_bytes) == ("", round(135_000_000 * 8.5 / 8))
    with pytest.raises(CatalogError) as caught:
        find_model_file("Qwen3-4C", catalog)
    assert caught.value.code == "AW-CAT-01" and "Qwen3-4B" in caught.value.nearest
    with pytest.raises(CatalogError):
        find_model_file("Qwen3-4B:", catalog)
    assert find_model_file("gpt-oss-20b", catalog).quantisation == "mxfp4"
    assert find_model_file("Qwen3-4B:iq4_xs", catalog).quantisation == "IQ4_XS"
    with pytest.raises(CatalogError) as caught:
        find_model_file("Qwen3-4B:Q4_K_X", catalog)
    assert "Q4_K_M" in caught.value.nearest
