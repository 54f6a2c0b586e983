"""Templates keep types, repeat and omit objects, and never let a text change the structure of an object."""

from __future__ import annotations

import pytest

from archwright.deploy.rendering.bundle import compose_files
from archwright.deploy.rendering.templating import RenderedObject, fill_value
from archwright.errors import InternalError


def test_a_value_that_is_one_expression_keeps_its_type() -> None:
    context = {"count": 3, "name": "a", "items": (1, 2)}
    filled = fill_value({"n": "<<count>>", "t": "x-<<name>>-<<count>>", "l": "<<items>>", "<<name>>": None}, context)
    assert filled == {"n": 3, "t": "x-a-3", "l": [1, 2], "a": None}


def test_directives_repeat_and_omit() -> None:
    template = {
        "$if many": {"replicas": 2},
        "$if not many": {"replicas": 1},
        "$for x in xs": {"key-<<x>>": "<<x>>"},
        "list": [{"$for x in xs": {"name": "<<x>>"}}, {"$if many": ["a", "b"]}, "end"],
    }
    filled = fill_value(template, {"many": True, "xs": ["p", "q"]})
    assert filled == {
        "replicas": 2,
        "key-p": "p",
        "key-q": "q",
        "list": [{"name": "p"}, {"name": "q"}, "a", "b", "end"],
    }


def test_a_text_of_the_plan_cannot_add_keys() -> None:
    value = fill_value({"name": "<<name>>"}, {"name": "x\nprivileged: true\n# <<1 + 1>>"})
    text = compose_files([RenderedObject("a.yaml", value, "", "", (), 0o644)])["a.yaml"].text
    assert fill_value({"k": "<<v>>"}, {"v": "<<1 + 1>>"}) == {"k": "<<1 + 1>>"}
    assert text.splitlines()[0] == "name: |-"
    assert "\nprivileged" not in text


@pytest.mark.parametrize("template", ["<<missing>>", "<<known.missing>>"])
def test_a_name_that_the_deployment_does_not_have_is_an_error(template: str) -> None:
    with pytest.raises(InternalError):
        fill_value(template, {"known": "text"})


def test_an_unknown_directive_is_an_error() -> None:
    with pytest.raises(InternalError, match=r"\$unless"):
        fill_value({"$unless x": {}}, {"x": 1})


def test_texts_like_numbers_stay_texts_in_yaml() -> None:
    value = {"version": "1.10", "on": "yes", "country": "NO", "empty": ""}
    text = compose_files([RenderedObject("a.yaml", value, "", "", (), 0o644)])["a.yaml"].text
    assert text == "version: '1.10'\n'on': 'yes'\ncountry: 'NO'\nempty: ''\n"


def test_terraform_blocks_of_one_file_are_merged_and_say_their_reason() -> None:
    blocks = [
        RenderedObject("main.tf.json", {"resource": {"a_b": {name: {"x": 1}}}}, "", f"why {name}", ("p.q",), 0o644)
        for name in ("two", "one")
    ]
    text = compose_files(blocks)["main.tf.json"].text
    assert text.index('"one"') < text.index('"two"')
    assert "why one [predictions: p.q]" in text


def test_the_reason_of_a_script_stands_below_its_first_line() -> None:
    one = RenderedObject("run.sh", None, "#!/bin/sh\necho\n", "why", (), 0o755)
    assert compose_files([one])["run.sh"].text == "#!/bin/sh\n# why\necho\n"
