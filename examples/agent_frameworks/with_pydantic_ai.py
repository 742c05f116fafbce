"""Pydantic AI through the gateway.

OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=any python with_pydantic_ai.py r2v
"""

import asyncio

from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from world import TASK, asked, look, take, tell

name, stream = asked()
agent = Agent(OpenAIChatModel(name), tools=[look, take])


async def main() -> None:
    """Run to the end."""
    if not stream:
        tell((await agent.run(TASK)).output)
        return
    async with agent.run_stream(TASK) as running:
        tell(await running.get_output())


asyncio.run(main())
