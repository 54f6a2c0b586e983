"""Which request fields an engine gets: the rows of engine_fields.csv, and the fields that an operator allows.

A row is one rule for its fields. A field that no row of the engine names is rejected. `handling`: pass, drop (accepted
and not passed on), never (an operator cannot allow it either), or a JSON list of the only accepted values, which are
not passed on. `tenant`: the gateway sets the field, to a digest that tells an engine one tenant from another.
`messages.X` is a field of a message, `messages.content.X` and `tools.X` are kinds of parts and tools,
and `chat_template_kwargs.X` is a field of that object. Rows of the engine `openai` hold for every engine behind a URL
that speaks OpenAI's interface.
"""

import csv
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import msgspec

Interface = Literal["chat", "completions", "embeddings", "rerank", "messages", "responses", "transcriptions"]
INTERFACES: tuple[Interface, ...] = get_args(Interface)
RESPONSES: Interface = "responses"
OWN, OPENAI, ANTHROPIC = "own", "openai", "anthropic"
# Engines with this field use a prompt again only for requests with the same value.
CACHE_SALT = "cache_salt"
_ANY = "any"
_TYPES: dict[str, Any] = {
    "": Any,
    **{"boolean": bool, "integer": int, "number": float, "string": str},
    **{"integers": list[int], "strings": list[str], "object": dict},
}


class FieldRule(NamedTuple):
    """The handling of one field. `only`: the accepted values, None for all values of `type`."""

    handling: Literal["pass", "drop", "never", "only", "tenant"] = "pass"
    type: Any = Any
    reason: str = ""
    only: tuple[Any, ...] | None = None


PASS = FieldRule()


class InterfaceRules(NamedTuple):
    """The rules of one interface: of the fields of a body by name, and of inner fields and kinds by path."""

    fields: Mapping[str, FieldRule]
    inner: Mapping[str, FieldRule]


Rules = Mapping[Interface, InterfaceRules]


@cache
def _read_rows() -> dict[str, dict[Interface, dict[str, FieldRule]]]:
    """Return the rules by engine, interface and field."""
    rules: dict[str, dict[Interface, dict[str, FieldRule]]] = {}
    with Path(__file__).with_name("engine_fields.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            only = tuple(msgspec.json.decode(row["handling"])) if row["handling"].startswith("[") else None
            plain = row["handling"] == "pass" and not row["type"]
            handling: Any = "only" if only is not None else row["handling"]
            rule = PASS if plain else FieldRule(handling, _TYPES[row["type"]], row["reason"], only)
            for engine in row["engines"].split():
                of_engine = rules.setdefault(engine, {interface: {} for interface in INTERFACES})
                for interface in msgspec.convert(row["endpoints"].split(), list[Interface]):
                    of_engine[interface] |= dict.fromkeys(row["fields"].split(), rule)
    return rules


def list_engines() -> tuple[str, ...]:
    """Return the engines behind a URL that have rows."""
    return tuple(sorted(_read_rows().keys() - {OWN, ANTHROPIC, _ANY}))


def takes_cache_salt(engine: str) -> bool:
    """True if the engine keeps the prompts of tenants apart by the field CACHE_SALT."""
    rule = _read_rows().get(engine, {}).get("chat", {}).get(CACHE_SALT)
    return rule is not None and rule.handling == "tenant"


def find_never_allowed(fields: Iterable[str]) -> str:
    """Return the first field that no operator may allow, or that an interface defines; "" if there is none."""
    rows = _read_rows()
    others = [rows[of][one] for of in (OPENAI, ANTHROPIC) for one in INTERFACES if one != RESPONSES]
    defined = {name for rules in others for name in rules if "." not in name}
    return next((name for name in fields if name in defined or name in rows[_ANY]["chat"]), "")


def is_known(name: str) -> bool:
    """True if a row of any engine names the field."""
    return any(name in fields for engine in _read_rows().values() for fields in engine.values())


@cache
def rules_of_engine(engine: str, allowed: tuple[str, ...] = ()) -> Rules:
    """Return the rules of one engine. `allowed`: more fields, by its operator."""
    rows = _read_rows()
    own, base = rows.get(engine, {}), {} if engine in (OWN, ANTHROPIC) else rows[OPENAI]
    more = dict.fromkeys(allowed, PASS)
    rules: dict[Interface, InterfaceRules] = {}
    for interface in INTERFACES:
        found = {**base.get(interface, {}), **own.get(interface, {}), **rows[_ANY][interface]}
        # A field of the Responses interface may be allowed for chats. That must not allow its server-side state.
        rules[interface] = _split_rules({**more, **found} if interface == RESPONSES else {**found, **more})
    return rules


def combine_rules(engines: Iterable[Rules]) -> Rules:
    """Return the rules that hold for every engine: only what all take, handled in the strictest way."""
    found = list(engines)
    combined: dict[Interface, InterfaceRules] = {}
    for interface in INTERFACES:
        each = [{**rules[interface].fields, **rules[interface].inner} for rules in found]
        names = set(each[0]).intersection(*each[1:])
        combined[interface] = _split_rules({name: max((of[name] for of in each), key=_strictness) for name in names})
    return combined


def _split_rules(rules: Mapping[str, FieldRule]) -> InterfaceRules:
    inner = {name: rule for name, rule in rules.items() if "." in name}
    return InterfaceRules({name: rule for name, rule in rules.items() if name not in inner}, inner)


def _strictness(rule: FieldRule) -> int:
    return ("pass", "drop", "only", "never").index(rule.handling)
