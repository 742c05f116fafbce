"""The OpenAI Agents SDK through the gateway, which speaks chat completions.

OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=any python with_openai_agents.py r2v
"""

import asyncio

from agents import (
    Agent,
    OpenAIChatCompletionsModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI
from world import TASK, asked, look, take, tell

name, stream = asked()
set_tracing_disabled(True)  # it would send traces to OpenAI
model = OpenAIChatCompletionsModel(name, openai_client=AsyncOpenAI())
agent = Agent("lamp", tools=[function_tool(look), function_tool(take)], model=model)


async def main() -> None:
    """Run to the end."""
    if not stream:
        tell((await Runner.run(agent, TASK, max_turns=6)).final_output)
        return
    running = Runner.run_streamed(agent, TASK, max_turns=6)
    async for _ in running.stream_events():
        pass
    tell(running.final_output)


asyncio.run(main())
