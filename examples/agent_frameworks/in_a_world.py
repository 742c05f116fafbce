"""smolagents' CodeAgent, whose programs run elsewhere: in the sandbox of a world at WORLD_URL.

OPENAI_BASE_URL=... OPENAI_API_KEY=any WORLD_URL=... python in_a_world.py r2v STEPS < goal

`play.py` starts it. Prints, as JSON, which route each answer came by: `slm` or `teacher`.
"""

import json
import os
import sys
from urllib.request import Request, urlopen

from smolagents import ActionStep, CodeAgent, OpenAIModel
from smolagents.local_python_executor import CodeOutput, PythonExecutor


class World(PythonExecutor):
    """What the agent takes for its interpreter. Nothing of the model's runs in this process."""

    def send_tools(self, tools: object) -> None:
        """There are none."""

    def send_variables(self, variables: object) -> None:
        """The world keeps its own."""

    def __call__(self, code_action: str) -> CodeOutput:
        """Hand in a program, and read what comes of it."""
        sent = Request(os.environ["WORLD_URL"], json.dumps(code_action).encode(), method="POST")
        with urlopen(sent) as answer:
            came = json.load(answer)
        return CodeOutput(output=None, logs=came["observation"], is_final_answer=came["over"])


model = OpenAIModel(
    model_id=sys.argv[1],
    api_base=os.environ["OPENAI_BASE_URL"],
    api_key=os.environ["OPENAI_API_KEY"],
    max_tokens=400,
    client_kwargs={"max_retries": 0, "timeout": 900},
)
steps = int(sys.argv[2])
agent = CodeAgent(
    tools=[],
    model=model,
    executor=World(),
    code_block_tags="markdown",
    max_steps=steps + 1,
    verbosity_level=0,
)
answered = []
for step in agent.run(sys.stdin.read(), stream=True):
    if isinstance(step, ActionStep):
        answered.append(step.model_output_message.raw.r2v["route"])
        if len(answered) == steps:
            break
print("\n" + json.dumps(answered))
