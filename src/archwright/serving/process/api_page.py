"""A page of HTML that shows an OpenAPI document. It loads nothing and runs no script."""

import base64
import hashlib
from html import escape
from typing import Any

from archwright.serving.process.openapi import OPENAPI_PATH

PAGE_PATH, HTML_CONTENT_TYPE = "/docs", "text/html; charset=utf-8"
_STYLE = """
:root{color-scheme:light dark;--soft:light-dark(#f3f5f7,#1c2128);--line:light-dark(#d8dee4,#3d444d)}
body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem}
a{color:light-dark(#0957b3,#6cb0ff)}code{font:.93em ui-monospace,monospace}
details{border:1px solid var(--line);border-radius:6px;margin:.5rem 0}details>*{margin:.5rem 1rem}
summary{margin:0;padding:.55rem 1rem;cursor:pointer;background:var(--soft);border-radius:6px}
summary b{display:inline-block;width:4rem}table{border-collapse:collapse;width:calc(100% - 2rem)}
td{vertical-align:top;padding:.3rem .8rem .3rem 0;border-top:1px solid var(--line);overflow-wrap:anywhere}
tr:first-child td{border:0}td:first-child{width:14rem}
"""
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY = f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
PAGE_HEADERS = ((b"content-security-policy", _POLICY.encode()), (b"x-content-type-options", b"nosniff"))
_LIMITS = ("minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "pattern")


def render_page(document: dict[str, Any]) -> bytes:
    """Return the page: one block for each operation, one for each schema."""
    operations = [
        _render_block(f"<b>{method.upper()}</b><code>{escape(path)}</code> {one['summary']}", _list_parts(one))
        for path, methods in document["paths"].items()
        for method, one in methods.items()
    ]
    schemas = [
        # A browser opens a block if the target of a link is inside.
        _render_block(f"<code>{name}</code>", _list_fields(schema), f"<p id={name}>{_quote(schema, 'description')}")
        for name, schema in document["components"]["schemas"].items()
    ]
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{_quote(document['info'], 'title')}</title>"
        f"<meta name=viewport content='width=device-width'><style>{_STYLE}</style>"
        "<h1>Interface of the gateway</h1>"
        "<p>Send a key as <code>authorization: Bearer KEY</code> or as <code>x-api-key: KEY</code>. "
        f"Generators of clients read <a href={OPENAPI_PATH}>{OPENAPI_PATH}</a>.</p>"
        f"<h2>Endpoints</h2>{''.join(operations)}<h2>Objects</h2>{''.join(schemas)}</html>"
    )
    return page.encode()


def _quote(fields: dict[str, Any], name: str) -> str:
    return escape(str(fields.get(name, "")))


def _render_block(head: str, rows: list[tuple[str, str]], text: str = "") -> str:
    table = "".join(f"<tr><td>{name}<td>{value}" for name, value in rows)
    return f"<details><summary>{head}</summary>{text}<table>{table}</table></details>"


def _list_parts(operation: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the key, the parameters, the request's body and the responses of an operation."""
    rows = [("key", "required" if operation.get("security") is None else "not required")]
    for one in operation["parameters"]:
        rows.append((f"<code>{one['name']}</code>", f"{_describe(one['schema'])}, in the {one['in']}"))
    names: dict[str, list[str]] = {}  # of bodies by what they hold, which most errors share
    for name, body in {"body": operation.get("requestBody", {}), **operation["responses"]}.items():
        kinds = [f"{_describe(one['schema'])} as {escape(kind)}" for kind, one in body.get("content", {}).items()]
        names.setdefault("<br>".join(kinds), []).append(name)
    return rows + [(", ".join(codes), kinds) for kinds, codes in names.items() if kinds]


def _list_fields(schema: dict[str, Any]) -> list[tuple[str, str]]:
    required = schema.get("required", ())
    return [
        (f"<code>{escape(name)}</code>", _describe(field) + ", required" * (name in required))
        for name, field in schema.get("properties", {}).items()
    ]


def _describe(schema: dict[str, Any]) -> str:
    """Return a type and its limits as HTML."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f"<a href='#{name}'>{name}</a>"
    if "anyOf" in schema:
        return " or ".join(_describe(one) for one in schema["anyOf"] if one != {"type": "null"})
    if "enum" in schema:
        return " or ".join(f"<code>{escape(str(value))}</code>" for value in schema["enum"])
    items = f" of ({_describe(schema['items'])})" if schema.get("items") else ""
    limits = [f"{name} {schema[name]}" for name in _LIMITS if name in schema]
    return ", ".join(
        [_quote(schema, "type") + items or _quote(schema, "description") or "any value", *map(escape, limits)]
    )
