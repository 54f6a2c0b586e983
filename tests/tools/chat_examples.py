"""Conversations that lead even the small model to reason, or to call a function, in the form of `TOOL_TEMPLATE`."""

from __future__ import annotations

import json
from typing import Any


def _weather(city: str) -> list[dict[str, Any]]:
    call = {"name": "get_weather", "arguments": json.dumps({"city": city})}
    return [
        {"role": "user", "content": f"What is the weather in {city}?"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": city, "type": "function", "function": call}]},
        {"role": "tool", "tool_call_id": city, "content": "sunny"},
        {"role": "assistant", "content": "It is sunny."},
    ]


def _colour(name: str) -> list[dict[str, Any]]:
    question = {"role": "user", "content": f"Is {name} a colour?"}
    return [question, {"role": "assistant", "reasoning_content": f"{name.title()} is a colour.", "content": "Yes."}]


# The model copies the form of the earlier calls, or thoughts.
WEATHER = [*_weather("Rome"), *_weather("Berlin"), *_weather("Madrid"), _weather("Paris")[0]]
COLOURS = [*_colour("red"), *_colour("blue"), _colour("green")[0]]
TOOL_SCHEMA = {"type": "object", "properties": {"city": {"type": "string", "minLength": 1}}, "required": ["city"]}
WEATHER_TOOL = {"name": "get_weather", "description": "the weather", "parameters": TOOL_SCHEMA}
TOOLS = [{"type": "function", "function": WEATHER_TOOL}]
