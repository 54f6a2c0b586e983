"""The address of each provider, from its rows."""

from __future__ import annotations

import pytest

from archwright.serving.settings.upstream_kinds import ADDRESS_FIELDS, build_address

PLACES = [
    ("openai", {}, "https://api.openai.com/v1", "", "authorization"),
    ("anthropic", {}, "https://api.anthropic.com/v1", "", "authorization"),
    (
        "azure",
        {"endpoint": "https://r.openai.azure.com/", "deployment": "d", "api_version": "2024-10-21"},
        *("https://r.openai.azure.com/openai/deployments/d", "api-version=2024-10-21", "api-key"),
    ),
    (
        "azure",
        {"endpoint": "https://r.openai.azure.com", "deployment": "d"},
        *("https://r.openai.azure.com/openai/v1", "", "api-key"),
    ),
    (
        "bedrock",
        {"region": "eu-central-1"},
        *("https://bedrock-runtime.eu-central-1.amazonaws.com/openai/v1", "", "authorization"),
    ),
    (
        "vertex",
        {"project": "p-1", "location": "europe-west4"},
        "https://europe-west4-aiplatform.googleapis.com/v1/projects/p-1/locations/europe-west4/endpoints/openapi",
        *("", "authorization"),
    ),
    (
        "vertex",
        {"project": "p-1", "location": "global"},
        "https://aiplatform.googleapis.com/v1/projects/p-1/locations/global/endpoints/openapi",
        *("", "authorization"),
    ),
]


def fields_of(stated: dict[str, str]) -> dict[str, str]:
    return {**dict.fromkeys(ADDRESS_FIELDS, ""), **stated}


@pytest.mark.parametrize(("provider", "stated", "url", "query", "header"), PLACES)
def test_the_address_of_a_provider(provider: str, stated: dict[str, str], url: str, query: str, header: str) -> None:
    made = build_address(provider, fields_of(stated))
    fields = made.pool_fields
    assert fields["addresses"] == (url,) and fields["exact_url"] == (not url.endswith("/v1"))
    assert (fields["query"], fields["key_header"]) == (query, header)
    assert made.model == stated.get("deployment", "")


@pytest.mark.parametrize(
    ("provider", "stated", "urls", "field"),
    [
        ("azure", {"deployment": "d"}, (), "endpoint"),
        ("azure", {"endpoint": "https://r.example.org"}, (), "deployment"),
        ("bedrock", {}, (), "region"),
        ("bedrock", {"region": "x", "project": "p"}, (), "project"),
        ("bedrock", {"region": "evil.example.org/"}, (), "region"),
        ("azure", {"endpoint": "https://u:p@r.example.org", "deployment": "d"}, (), "endpoint"),
        ("vertex", {"project": "p", "location": "l"}, ("http://a/v1",), "url"),
        ("openai", {}, ("http://a",), "url"),
    ],
)
def test_a_wrong_field_is_named(provider: str, stated: dict[str, str], urls: tuple[str, ...], field: str) -> None:
    with pytest.raises(ValueError, match=field) as caught:
        build_address(provider, fields_of(stated), urls)
    assert caught.value.args[0] == field
