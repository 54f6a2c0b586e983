"""Frameworks of agents that use the Responses interface by default. Runs in an environment of its own."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import openai
import pytest
from agents import Agent, ModelSettings, Runner, function_tool, set_default_openai_client, set_tracing_disabled
from openai.types.shared import Reasoning
from pydantic import BaseModel
from pydantic_ai import Agent as PydanticAgent
from pydantic_ai.models.openai import OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

URL, KEY = os.environ["GATEWAY_URL"], os.environ["GATEWAY_KEY"]
TEXT = "Hello from the scripted engine, how are you today?"
QUESTION = "What is the weather in 'Rome'?"


class City(BaseModel):
    name: str
    size: int


@pytest.fixture(autouse=True)
def gateway() -> None:
    set_tracing_disabled(True)
    set_default_openai_client(openai.AsyncOpenAI(base_url=URL, api_key=KEY, max_retries=0), use_for_tracing=False)


@function_tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"18 degrees in {city}"


def test_agents_run_a_tool() -> None:
    agent = Agent(name="a", instructions="Be brief.", model="scripted", tools=[weather])
    result = Runner.run_sync(agent, QUESTION)
    outputs = [item.output for item in result.new_items if item.type == "tool_call_output_item"]
    assert outputs == ["18 degrees in Rome"] and result.final_output == TEXT
    again = Runner.run_sync(agent, [*result.to_input_list(), {"role": "user", "content": "Thanks."}])
    assert again.final_output


def test_agents_stream() -> None:
    async def run() -> tuple[str, list[str]]:
        settings = ModelSettings(reasoning=Reasoning(effort="low", summary="auto"), store=False)
        agent = Agent(name="a", model="gpt-5-scripted", tools=[weather], model_settings=settings)
        result = Runner.run_streamed(agent, QUESTION)
        kinds = [event.data.type async for event in result.stream_events() if event.type == "raw_response_event"]
        return str(result.final_output), kinds

    said, kinds = asyncio.run(run())
    assert said == TEXT
    assert kinds.count("response.completed") == 2 and "response.reasoning_summary_text.delta" in kinds


def test_agents_structured_output() -> None:
    agent = Agent(name="a", model="scripted", output_type=City)
    assert Runner.run_sync(agent, "A city: 'Rome' of 3").final_output == City(name="Rome", size=3)


def make_pydantic_agent(**fields: Any) -> PydanticAgent[None, Any]:
    return PydanticAgent(OpenAIResponsesModel("scripted", provider=OpenAIProvider(base_url=URL, api_key=KEY)), **fields)


def test_pydantic_ai_runs_a_tool() -> None:
    agent = make_pydantic_agent(instructions="Be brief.")
    calls: list[str] = []

    @agent.tool_plain
    def weather_of(city: str) -> str:
        """The weather in a city."""
        calls.append(city)
        return "18 degrees"

    result = agent.run_sync(QUESTION)
    assert (calls, result.output) == (["Rome"], TEXT)
    assert result.usage.output_tokens > 0
    assert agent.run_sync("Thanks.", message_history=result.all_messages()).output


def test_pydantic_ai_streams() -> None:
    async def run() -> str:
        async with make_pydantic_agent().run_stream("Say hello.") as result:
            return "".join([piece async for piece in result.stream_text(delta=True)])

    assert asyncio.run(run()) == TEXT


def test_pydantic_ai_structured_output() -> None:
    assert make_pydantic_agent(output_type=City).run_sync("A city: 'Rome' of 3").output == City(name="Rome", size=3)
