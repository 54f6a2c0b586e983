"""`predict serving` on the processors of the catalog."""

from __future__ import annotations

import pytest

from archwright import api
from archwright.catalog.benchmark_names import BenchmarkNameResolver
from archwright.catalog.load import load_catalog
from archwright.sizing.step_time.extrapolation import HOST_KIND

MODEL = "Qwen3-4B"


def test_a_processor_assumes_one_engine_that_runs_on_processors() -> None:
    """Graviton's vendor also makes accelerators, whose engine runs on no processor."""
    catalog = load_catalog()
    engines = {row.engine for row in catalog.efficiencies if row.kind == HOST_KIND}
    accelerators = BenchmarkNameResolver(catalog).accelerators.values()
    processors = [row for row in accelerators if row.kind == HOST_KIND]
    assert len(processors) > 10 and any("GRAVITON" in row.id for row in processors)
    for processor in processors:
        assumed = api.predict_serving(MODEL, on=processor.id).assumed
        (engine,) = [text.removeprefix("engine: ") for text in assumed if text.startswith("engine: ")]
        assert engine in engines, (processor.id, engine)


@pytest.mark.parametrize("load", ["max x 1024+64", "8x512+64", "0.01/s x 256+16"])
def test_the_load_does_not_change_the_engine_of_a_processor(load: str) -> None:
    predicted = api.predict_serving(MODEL, on="Graviton4", load=load)
    assert not [text for text in predicted.assumed if "--engine" in text]
    assert not [text for text in predicted.assumed if "neuron" in text]


def test_an_accelerator_assumes_the_measured_engine_of_its_vendor() -> None:
    assumed = api.predict_serving(MODEL, on="Trainium2").assumed
    assert [text for text in assumed if text.startswith("engine: ")] == [
        "engine: neuron, as the measured devices of this vendor; --engine changes it"
    ]
