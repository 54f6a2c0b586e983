"""Select the fields of a request that the endpoint's engines get (settings/engine_fields.py has the rules)."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from archwright.serving.http.errors import ApiError, bad_request, unsupported_field, unsupported_value
from archwright.serving.requests.typed_requests import describe_invalid
from archwright.serving.settings.config import Endpoint
from archwright.serving.settings.engine_fields import PASS, FieldRule, Interface, is_known

MAX_NAME_CHARACTERS = 80


def select_fields(body: Mapping[str, Any], endpoint: Endpoint, interface: Interface) -> dict[str, Any]:
    """Return the fields of a body that the endpoint's engines get. Raises ApiError 400 for fields to reject.

    The types of the fields that the interface defines have been checked.
    """
    rules, passed = endpoint.rules[interface].fields, {}
    for name, value in body.items():
        if value is not None:
            rule = rules.get(name)
            if rule is PASS or (rule is not None and _passes(value, name, rule, endpoint, interface)):
                passed[name] = value
            elif rule is None:
                raise reject_field(name, endpoint, interface)
    return passed


def _passes(value: Any, name: str, rule: FieldRule, endpoint: Endpoint, interface: Interface) -> bool:
    """True if the field is passed on, False if it is dropped."""
    if rule.handling == "never":
        raise reject_field(name, endpoint, interface)
    if rule.only is not None and value not in rule.only:
        raise unsupported_value(f"{name!r}: {rule.reason}", name)
    try:
        msgspec.convert(value, rule.type)
    except msgspec.ValidationError as error:
        raise describe_invalid(error, name) from None
    for field, inner in value.items() if rule.type is dict else ():
        path = f"{name}.{field[:MAX_NAME_CHARACTERS]}"
        of_field = endpoint.rules[interface].inner.get(path)
        if of_field is None or not _passes(inner, path, of_field, endpoint, interface):
            raise reject_field(path, endpoint, interface)
    return rule.handling == "pass"


def reject_field(name: str, endpoint: Endpoint, interface: Interface, at: str = "") -> ApiError:
    """Return the error 400 for a field. `name`: as in the rules, `at`: as in the body, if it differs."""
    rules, short = endpoint.rules[interface], name[:MAX_NAME_CHARACTERS]
    rule, param = rules.fields.get(name) or rules.inner.get(name), at or short
    if rule is not None and rule.handling == "never":
        return unsupported_field(f"{param!r} is not supported: {rule.reason}", param)
    hint = "" if endpoint.strict else f". The operator of the gateway can allow it with --allow-field NAME={short}"
    if is_known(name):
        return unsupported_field(f"{param!r} is not supported by this model's engine{hint}", param)
    return unknown_field(param, [known for known, rule in rules.fields.items() if rule.handling != "never"], hint)


def unknown_field(name: str, known: Iterable[str], hint: str = "") -> ApiError:
    similar = difflib.get_close_matches(name[:MAX_NAME_CHARACTERS], known, 1)  # slow for a long name
    suggestion = f"; did you mean {similar[0]!r}?" if similar else ""
    end = hint.removeprefix(".") if suggestion else hint
    return bad_request(f"unknown field {name!r}{suggestion}{end}", name, "unknown_parameter")
