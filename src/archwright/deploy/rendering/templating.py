"""Templates of rendered files: YAML documents whose values are expressions over the deployment.

A template file holds documents of this form:

    file: base/engine-<<pool.name>>.yaml     # where the object goes; objects of one file follow each other
    for: pool in site.pools                  # optional: one object for each
    if: pool.accelerator                     # optional
    reason: <<pool.reason>>                  # why the plan has this object
    predictions: <<pool.prediction_ids>>     # optional: ids of the predictions behind it
    object: {...}                            # a mapping, or `text: |` for a file that is no YAML or JSON

`<<expression>>` is an expression of Jinja. A value that is one expression keeps its type, so `<<pool.replicas>>` is a
number; inside a longer text it becomes text. In a mapping, the keys `$if EXPRESSION` and `$for NAME in EXPRESSION`
merge their mapping; as the only key of a list's item, they add their value, or the items of their list. A loop over
tuples can name their items: `$for name, size in ...`. A mapping with the only key `$json` becomes its JSON text.
Inside `text`, blocks are written `<% if ... %>`, and comments `<# ... #>`.

Design: values are put into parsed YAML, so a text of the plan cannot change the structure of an object. In a `text`,
use the filters `sh` (shell word), `csv` (cell) and `line` (one line) for texts of the plan.
"""

import functools
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import yaml

from archwright.contract.record import Record
from archwright.errors import InternalError

TEMPLATES = Path(__file__).parents[1] / "templates"
# A reference of Terraform inside a JSON text: its quotes are not those of the text.
REFERENCE = re.compile(r"\$\{[^}]*\}")
OPEN, CLOSE = "<<", ">>"
TemplateContext = Mapping[str, object]


class TemplateObject(Record):
    """One document of a template file. `when` and `each` are its `if` and `for`."""

    file: str
    object: Any = None
    text: str = ""
    when: str = ""
    each: str = ""
    reason: str = ""
    predictions: Any = ()
    mode: int = 0o644


class RenderedObject(NamedTuple):
    """An object of a bundle: `value` goes into `file`, or `text` is the file. `predictions`: ids behind it."""

    file: str
    value: Any
    text: str
    reason: str
    predictions: tuple[str, ...]
    mode: int


class Expression(Protocol):
    def __call__(self, context: TemplateContext) -> object: ...


def _quote_unit_word(value: object) -> str:
    """Return a text as one word of a command line or an environment in a unit of systemd."""
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'


class _Compiler:
    """Jinja's expressions and texts, compiled once. Loaded on first use, since few verbs render."""

    def __init__(self) -> None:
        from jinja2 import Environment, StrictUndefined  # noqa: PLC0415

        self._environment = Environment(
            variable_start_string=OPEN,
            variable_end_string=CLOSE,
            block_start_string="<%",
            block_end_string="%>",
            comment_start_string="<#",
            comment_end_string="#>",
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        self._environment.filters["sh"] = lambda value: shlex.quote(str(value))
        self._environment.filters["unit"] = _quote_unit_word
        self._environment.filters["json"] = json.loads
        self._environment.filters["csv"] = _quote_cell
        self._environment.filters["line"] = lambda value: " ".join(str(value).split())
        self.expression = functools.lru_cache(maxsize=None)(self._compile_expression)
        self.text = functools.lru_cache(maxsize=None)(self._compile_text)

    def _compile_expression(self, source: str) -> Expression:
        run = self._environment.compile_expression(source, undefined_to_none=False)
        return lambda context: run(**context)

    def _compile_text(self, source: str) -> Expression:
        template = self._environment.from_string(source)
        return lambda context: template.render(**context)


def _quote_cell(value: object) -> str:
    """Return a cell of a CSV file; a text that a spreadsheet would read as a formula gets an apostrophe."""
    text = " ".join(str(value).split())
    text = f"'{text}" if text[:1] in "=+-@" and text else text
    return '"' + text.replace('"', '""') + '"' if set(text) & set(',";') else text


@functools.cache
def _compiler() -> _Compiler:
    return _Compiler()


def evaluate(expression: str, context: TemplateContext) -> Any:
    """Return the value of an expression. Raises InternalError AW-INT-01 for a name that the context does not have."""
    value = _compiler().expression(expression)(context)
    if type(value).__name__ == "StrictUndefined":
        raise InternalError("AW-INT-01", f"a template uses {expression!r}, which the deployment does not have")
    return value


def fill_text(text: str, context: TemplateContext) -> Any:
    """Return a text with its expressions replaced; a text that is one expression keeps the type of its value."""
    if OPEN not in text and "<%" not in text:
        return text
    inner = text.strip()[len(OPEN) : -len(CLOSE)]
    if text.strip() == f"{OPEN}{inner}{CLOSE}" and OPEN not in inner:
        return evaluate(inner, context)
    return _compiler().text(text)(context)


def fill_value(value: Any, context: TemplateContext) -> Any:
    """Return a parsed YAML value with its expressions and directives replaced."""
    if isinstance(value, str):
        return _to_plain(fill_text(value, context))
    if isinstance(value, list):
        return [item for part in value for item in _fill_item(part, context)]
    if isinstance(value, dict):
        if value.keys() == {"$json"}:
            text = json.dumps(fill_value(value["$json"], context), sort_keys=True)
            return REFERENCE.sub(lambda found: found[0].replace('\\"', '"'), text)
        return _fill_mapping(value, context)
    return value


def _to_plain(value: Any) -> Any:
    """Tuples are lists in YAML and JSON."""
    if isinstance(value, tuple | list):
        return [_to_plain(item) for item in value]
    return {key: _to_plain(item) for key, item in value.items()} if isinstance(value, dict) else value


def _fill_item(item: Any, context: TemplateContext) -> Iterator[Any]:
    key = next(iter(item)) if isinstance(item, dict) and len(item) == 1 else None
    if not isinstance(key, str) or not key.startswith("$"):
        yield fill_value(item, context)
        return
    for scope in _expand_directive(key, context):
        filled = fill_value(item[key], scope)
        if isinstance(filled, list):
            yield from filled
        else:
            yield filled


def _fill_mapping(mapping: dict[str, Any], context: TemplateContext) -> dict[str, Any]:
    filled: dict[str, Any] = {}
    for key, value in mapping.items():
        if str(key).startswith("$"):
            for scope in _expand_directive(key, context):
                merge_values(filled, _fill_mapping(value, scope))
        else:
            merge_values(filled, {str(fill_text(str(key), context)): fill_value(value, context)})
    return filled


def merge_values(into: dict[str, Any], more: dict[str, Any]) -> None:
    """Add the keys of `more`; mappings under the same key are merged, other values replaced."""
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge_values(into[key], value)
        else:
            into[key] = value


def _expand_directive(key: str, context: TemplateContext) -> Iterator[TemplateContext]:
    word, _, rest = key.partition(" ")
    if word == "$if":
        if evaluate(rest, context):
            yield context
    elif word == "$for":
        yield from _repeat(rest, context)
    else:
        raise InternalError("AW-INT-01", f"a template uses the unknown directive {key!r}")


def _repeat(clause: str, context: TemplateContext) -> Iterator[TemplateContext]:
    names, _, source = clause.partition(" in ")
    first, *more = (name.strip() for name in names.split(","))
    for item in evaluate(source, context):
        yield {**context, **(dict(zip([first, *more], item, strict=True)) if more else {first: item})}


@functools.cache
def _read_templates(name: str) -> tuple[TemplateObject, ...]:
    """Return the documents of the files of a folder, in the order of the file names."""
    found = []
    for path in sorted((TEMPLATES / name).glob("*.yaml")):
        for number, document in enumerate(yaml.load_all(path.read_bytes(), yaml.CSafeLoader), 1):
            if document is not None:
                found.append(_parse_document(cast(dict[str, Any], document), f"{path.name}#{number}"))
    return tuple(found)


def _parse_document(document: dict[str, Any], place: str) -> TemplateObject:
    names = {"if": "when", "for": "each"}
    try:
        return TemplateObject(**{names.get(key, key): value for key, value in document.items()})
    except TypeError as error:
        raise InternalError("AW-INT-01", f"the template {place} has the wrong form: {error}") from error


def expand_templates(folder: str, context: TemplateContext) -> Iterator[RenderedObject]:
    """Yield the objects of all template files of a folder."""
    for template in _read_templates(folder):
        for scope in _repeat(template.each, context) if template.each else (context,):
            if template.when and not evaluate(template.when, scope):
                continue
            yield RenderedObject(
                file=str(fill_text(template.file, scope)),
                value=fill_value(template.object, scope),
                text=str(_compiler().text(template.text)(scope)) if template.text else "",
                reason=" ".join(str(fill_text(template.reason, scope)).split()),
                predictions=tuple(fill_value(template.predictions, scope)),
                mode=template.mode,
            )
