"""Rules seen from the contract: no field without a range, no kind without its fields; spelling; the parser itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import pytest
import yaml
from msgspec import inspect

from archwright.catalog.load import load_catalog
from archwright.contract.needs import Needs, Traffic, Workload, WorkloadKind
from archwright.errors import MissingError, NeedsError
from archwright.needs.countries import country_names, nearest_countries
from archwright.needs.kind_fields import fields_by_kind
from archwright.needs.needs_problem import nearest_spellings
from archwright.needs.number_checks import number_ranges
from archwright.needs.reader import parse_needs
from archwright.needs.template import TEMPLATES, read_template
from archwright.needs.yaml_tree import read_tree
from archwright.specfile import enclosing_paths, quote_value


def numeric(kind: inspect.Type) -> bool:
    if isinstance(kind, inspect.UnionType):
        return any(numeric(option) for option in kind.types)
    if isinstance(kind, inspect.DictType):
        return numeric(kind.value_type)
    return isinstance(kind, inspect.IntType | inspect.FloatType)


def structs(kind: inspect.Type) -> Iterator[inspect.StructType]:
    """Yield the record itself and all records below it."""
    if isinstance(kind, inspect.StructType):
        yield kind
    parts = [field.type for field in getattr(kind, "fields", ())] + list(getattr(kind, "types", ()))
    parts += [getattr(kind, name) for name in ("item_type", "value_type") if hasattr(kind, name)]
    for part in parts:
        yield from structs(part)


def test_every_number_of_the_contract_has_a_range() -> None:
    due = {(s.cls.__name__, f.name) for s in structs(inspect.type_info(Needs)) for f in s.fields if numeric(f.type)}
    assert due == {(record, name) for record, names in number_ranges().items() for name in names}


def test_every_kind_says_its_fields_and_they_exist() -> None:
    assert set(fields_by_kind()) == set(get_args(WorkloadKind))
    used: set[str] = set()
    for known in fields_by_kind().values():
        workload, traffic = {*known.needs, *known.also}, {*known.traffic, *known.traffic_also}
        assert workload <= set(Workload.__struct_fields__) and traffic <= set(Traffic.__struct_fields__)
        assert bool(traffic) == ("traffic" in workload) and (not known.slo or "slo" in workload)
        used |= workload | {"name", "kind", "data"}
    assert used == set(Workload.__struct_fields__)


def test_countries() -> None:
    assert len(country_names()) == 249 and country_names()["NO"] == "Norway"
    assert all(len(code) == 2 and code.isupper() for code in country_names())
    assert nearest_countries("Norway") == ("NO",)
    assert "US" in nearest_countries("USA")
    assert nearest_countries("(((") == ()


def test_the_catalog_prices_only_countries_that_exist() -> None:
    known = {place for place in load_catalog().places if len(place) == 2 and place.isupper()}
    assert known - {"US", "EU"} <= country_names().keys()


def test_nearest_spelling() -> None:
    assert nearest_spellings("ttft_p96_s", ["ttft_p95_s", "availability"]) == ("ttft_p95_s",)
    assert nearest_spellings("Eu West 1", ["eu-west-1", "us-east-1"])[0] == "eu-west-1"
    assert nearest_spellings("zzz", ["abc"]) == ()
    assert nearest_spellings("x" * 100_000, ["x" * 80]) == ("x" * 80,)


def test_what_a_message_shows() -> None:
    assert quote_value("a\x1b[31m") == '"a\\u001b[31m"'
    assert quote_value("x" * 100) == '"' + "x" * 57 + '..."'
    assert quote_value(3) == "3"
    assert list(enclosing_paths("a[0].b")) == ["a[0].b", "a[0]", "a", ""]


def test_templates_are_the_examples() -> None:
    root = Path(__file__).parents[2]
    folder = root / "src" / "archwright" / "needs" / "templates"
    assert {f"{name}.yaml" for name in TEMPLATES} == {path.name for path in folder.iterdir()}
    for name in TEMPLATES:
        assert read_template(name).startswith("# ") and parse_needs(read_template(name).encode(), name, load_catalog())
    for name in ("desk", "startup", "clinic", "manufacturer"):
        same = read_template(name).encode() == (root / "examples" / name / "needs.yaml").read_bytes()
        assert same is (name != "desk"), "the demo pins the small model, the built-in assistant chooses one"
    with pytest.raises(NeedsError) as caught:
        read_template("dekc")
    assert (caught.value.code, caught.value.nearest) == ("AW-NEEDS-20", ("desk",))
    with pytest.raises(NeedsError) as caught:
        read_template("zzz")
    assert caught.value.nearest == () and "startup" in caught.value.hint


def test_without_the_c_parser_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(yaml, "CSafeLoader")
    with pytest.raises(MissingError) as caught:
        read_tree("a: 1", "needs.yaml")
    assert "pip install" in caught.value.hint


def test_a_character_libyaml_refuses_without_a_mark() -> None:
    with pytest.raises(NeedsError) as caught:
        read_tree("a: \x7f", "needs.yaml")
    assert (caught.value.code, caught.value.where.line) == ("AW-NEEDS-04", 1)


HEAD = "version: 1\norganisation: {name: a, country: DE}\nbudget: {currency: EUR, horizon_months: 3}\n"
TEXT = "requests_per_second: {mean: 1, peak: 2}, input_tokens: {mean: 1, p95: 2}, output_tokens: {mean: 1, p95: 2}"
ONE = f"workloads: [{{name: a, kind: chat, traffic: {{{TEXT}}}}}]\n"
TUNE = "  - {{name: a{0}, kind: finetune, base: {1}, method: lora, tokens: 1}}\n"
FLOODS: dict[str, str] = {
    "places": f"{HEAD}{ONE}data: [{{name: a, size_gib: 1, residency: [{','.join(f'x{n}' for n in range(15_000))}]}}]",
    "data sets": f"{HEAD}{ONE}data:\n"
    + "".join(f"  - {{name: a{n}, size_gib: 1, residency: [q{n}]}}\n" for n in range(2200)),
    "countries": f"{HEAD}{ONE}sites:\n" + "".join(f"  a{n}: {{count: 1, countries: [Q{n}]}}\n" for n in range(2400)),
    "empty workloads": f"{HEAD}workloads: [{'{},' * 17_000}]",
    "unknown fields": HEAD + ONE + "".join(f"zz{n}: 1\n" for n in range(9000)),
    "a chain of bases": f"{HEAD}workloads:\n" + "".join(TUNE.format(n, f"a{n + 1}") for n in range(1700)),
    "bases of long names": f"{HEAD}workloads:\n" + "".join(TUNE.format(n, "z" * 90) for n in range(1700)),
    "accelerators": f"{HEAD}{ONE}placement: {{accelerators: [{','.join(f'a{n}' for n in range(9000))}]}}",
    "machines": f"{HEAD}{ONE}placement: {{owned: [{','.join(f'{{machine: {n + 1}x H100}}' for n in range(4000))}]}}",
    "a long model": HEAD + ONE.replace("kind: chat", f"kind: chat, model: {'it' * 100_000}"),
    "a long accelerator": f"{HEAD}{ONE}placement: {{accelerators: [{'H100 ' * 45_000}]}}",
    "a long machine": f"{HEAD}{ONE}placement: {{owned: [{{machine: '8x {' ' * 200_000}'}}]}}",
    "regulations": f"{HEAD}{ONE}regulations: [{'gdpr,' * 15_000}]",
    "a long address": f"{HEAD}{ONE}existing: [{{kind: lake, product: a, url: 'http://{'[' * 200_000}'}}]",
}


@pytest.mark.parametrize("name", list(FLOODS))
def test_a_flood_of_mistakes_is_answered_in_time(name: str, refused: Callable[[bytes], NeedsError]) -> None:
    """Spellings are tried for the mistake that is told, not for each."""
    refused(FLOODS[name].encode())
