"""smolagents' agents in a world at WORLD_URL: CodeAgent, whose programs run there, or
ToolCallingAgent, which has one tool.

OPENAI_BASE_URL=... OPENAI_API_KEY=any WORLD_URL=... python in_a_world.py r2v STEPS programs < goal

`play.py` starts it; the last word may be `commands`. Prints, as JSON, which route each answer came
by: `slm` or `teacher`.
"""

import json
import os
import sys
from typing import Any
from urllib.request import Request, urlopen

from smolagents import ActionStep, CodeAgent, OpenAIModel, ToolCallingAgent, tool
from smolagents.local_python_executor import CodeOutput, PythonExecutor

over = False


def handed_in(text: str) -> str:
    """Hand in a program or a command, and read what comes of it."""
    global over
    sent = Request(os.environ["WORLD_URL"], json.dumps(text).encode(), method="POST")
    with urlopen(sent) as answer:
        came = json.load(answer)
    over = came["over"]
    return str(came["observation"])


class World(PythonExecutor):
    """What CodeAgent takes for its interpreter. Nothing of the model's runs in this process."""

    def send_tools(self, tools: object) -> None:
        """There are none."""

    def send_variables(self, variables: object) -> None:
        """The world keeps its own."""

    def __call__(self, code_action: str) -> CodeOutput:
        """Hand in a program."""
        logs = handed_in(code_action)
        return CodeOutput(output=None, logs=logs, is_final_answer=over)


@tool
def act(command: str) -> str:
    """Give the game one command, and read what happens. Commands are, for example: go east, look,
    open chest, take lamp, take lamp from chest, put lamp on table, insert key into box,
    unlock door with key, examine table, inventory.

    Args:
        command: the command
    """
    return handed_in(command)


def agent(name: str, steps: int, takes: str) -> CodeAgent | ToolCallingAgent:
    """The agent; with `auto`, an answer that calls no tool is read by smolagents itself."""
    calls: dict[str, Any] = {"tool_choice": "auto"} if takes == "commands" else {}
    model = OpenAIModel(
        model_id=name,
        api_base=os.environ["OPENAI_BASE_URL"],
        api_key=os.environ["OPENAI_API_KEY"],
        max_tokens=400,
        client_kwargs={"max_retries": 0, "timeout": 900},
        **calls,
    )
    if takes == "commands":
        return ToolCallingAgent(tools=[act], model=model, max_steps=steps, verbosity_level=0)
    return CodeAgent(
        tools=[],
        model=model,
        executor=World(),
        code_block_tags="markdown",
        max_steps=steps + 1,
        verbosity_level=0,
    )


def main(name: str, steps: int, takes: str) -> None:
    """Play one episode."""
    answered = []
    for step in agent(name, steps, takes).run(sys.stdin.read(), stream=True):
        if isinstance(step, ActionStep):
            answered.append(step.model_output_message.raw.r2v["route"])
            if over or len(answered) == steps:
                break
    print("\n" + json.dumps(answered))


main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
