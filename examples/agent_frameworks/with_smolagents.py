"""smolagents through the gateway: `OpenAIModel` takes the address, nothing else changes.

OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=any python with_smolagents.py r2v
"""

import os

from smolagents import OpenAIModel, ToolCallingAgent, tool
from world import TASK, asked, look, take, tell

name, stream = asked()
model = OpenAIModel(
    model_id=name, api_base=os.environ["OPENAI_BASE_URL"], api_key=os.environ["OPENAI_API_KEY"]
)
agent = ToolCallingAgent(
    tools=[tool(look), tool(take)],
    model=model,
    max_steps=6,
    stream_outputs=stream,
    verbosity_level=0,
)
tell(agent.run(TASK))
