"""Whether agents of public frameworks do through the gateway what they do without it.

    python -m venv frameworks
    frameworks/bin/pip install "smolagents[openai]" openai-agents "pydantic-ai-slim[openai]"
    .venv/bin/python examples/agent_frameworks/check.py --python frameworks/bin/python

Both sides are STUBS that play the same script, so every difference is the gateway's. Each agent
runs against the stub itself, and then through the gateway with the SLM, the teacher, and a router
that asks the teacher at the first step; whole and streamed. The exit code is 1 where one is
unequal.
"""

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from aiohttp import web

from actors.language_models.openai import OpenAIModel
from r2v_dist.config.models import ModelConfig
from r2v_dist.config.serve import ServeConfig
from r2v_dist.language_model import Sampling
from r2v_dist.router.registry import RouterModels
from r2v_dist.serving.access import Access
from r2v_dist.serving.app import GatewayApp, make_app
from r2v_dist.serving.gateway import Gateway
from r2v_dist.serving.policy import Point, Policy
from r2v_dist.serving.server import in_background
from r2v_dist.serving.sides import EndpointTeacher, Slm
from r2v_dist.serving.upstream import Upstream

HERE = Path(__file__).parent
PROGRAMS = ("smolagents", "openai_agents", "pydantic_ai")
MODELS = ("r2v-slm", "r2v-teacher", "r2v")
DEADLINE_S = 120
SAID = "The lamp is taken."
PACKAGES = ("smolagents", "openai-agents", "pydantic-ai-slim", "openai")


def scripted(body: dict[str, Any]) -> dict[str, Any]:
    """The message of the STUB: look, take, and say so; what has been done is read off the
    conversation. Where there is a tool for the final answer, that is called."""
    said = json.dumps(body["messages"])
    tools = {tool["function"]["name"] for tool in body.get("tools") or ()}
    if "[seen kitchen]" not in said:
        return _called("look", place="kitchen")
    if "[took lamp]" not in said:
        return _called("take", thing="lamp")
    if "final_answer" in tools:
        return _called("final_answer", answer=SAID)
    return {"role": "assistant", "content": SAID}


def _called(name: str, **arguments: str) -> dict[str, Any]:
    function = {"name": name, "arguments": json.dumps(arguments)}
    call = {"id": f"call_{name}", "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


async def answer(request: web.Request) -> web.StreamResponse:
    """A completion of the STUB, whole or as events."""
    body = json.loads(await request.read())
    message = scripted(body)
    base = {"id": "chatcmpl-stub", "created": 1, "model": "stub"}
    reason = "tool_calls" if "tool_calls" in message else "stop"
    usage = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
    if not body.get("stream"):
        choices = [
            {"index": place, "message": message, "finish_reason": reason}
            for place in range(body.get("n") or 1)
        ]
        told = base | {"object": "chat.completion", "choices": choices, "usage": usage}
        return web.json_response(told)
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    for delta, finish in ((_delta(message), None), ({}, reason)):
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        await _send(response, base | {"object": "chat.completion.chunk", "choices": [choice]})
    if (body.get("stream_options") or {}).get("include_usage"):
        told = {"object": "chat.completion.chunk", "choices": [], "usage": usage}
        await _send(response, base | told)
    await response.write(b"data: [DONE]\n\n")
    return response


def _delta(message: dict[str, Any]) -> dict[str, Any]:
    calls = enumerate(message.get("tool_calls") or ())
    delta = dict(message)
    if "tool_calls" in delta:
        delta["tool_calls"] = [{"index": number} | call for number, call in calls]
    return delta


async def _send(response: web.StreamResponse, chunk: dict[str, Any]) -> None:
    await response.write(f"data: {json.dumps(chunk)}\n\n".encode())


@contextlib.asynccontextmanager
async def stub() -> AsyncIterator[str]:
    """The STUB's address."""
    application = web.Application()
    application.router.add_post("/v1/chat/completions", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def gateway(address: str, routes: list[str]) -> AsyncIterator[str]:
    """A gateway between STUBS, which notes who answered; its address."""
    told = ModelConfig(backend="openai", model="stub", base_url=address)
    config = ServeConfig()
    points = {"selected": Point("selected", -1.5)}  # `first_n` asks the teacher at step 0 alone
    policy = Policy("first_n", RouterModels(), 0, points, "selected", "first_n")
    async with Upstream(address, "", config.upstream) as upstream:
        slm = Slm(OpenAIModel(told), Sampling(n=2, max_tokens=64), "stub")
        served = Gateway(slm, EndpointTeacher(upstream, told, "stub"), policy, config, max_steps=9)
        served.listeners.append(lambda begun: routes.append(begun.route[0]))
        app = GatewayApp(served, Access())

        @contextlib.asynccontextmanager
        async def lifespan(_: Any) -> AsyncIterator[None]:
            yield

        async with in_background(make_app(app, lifespan), app) as url:
            yield f"{url}/v1"


async def played(python: str, program: str, address: str, model: str, stream: bool) -> str:
    """What an agent did and said, or its last line of standard error."""
    variables = {"OPENAI_BASE_URL": address, "OPENAI_API_KEY": "any", "HF_HUB_OFFLINE": "1"}
    command = [python, str(HERE / f"with_{program}.py"), model, *(["--stream"] if stream else [])]
    process = await asyncio.create_subprocess_exec(
        *command, env=os.environ | variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            output, errors = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return f"no end within {DEADLINE_S} s"
    if process.returncode:
        return errors.decode().strip().splitlines()[-1]
    return output.decode()[output.decode().rindex('{"calls"') :].strip()  # not what else is printed


async def compared(python: str) -> bool:
    """Play everything, and print a line for each; whether all were equal."""
    equal = True
    routes: list[str] = []
    async with stub() as address, gateway(address, routes) as url:
        for program in PROGRAMS:
            for stream in (False, True):
                expected = await played(python, program, address, "stub", stream)
                done = f'"answer": "{SAID}"' in expected
                print(f"{program}, {'streamed' if stream else 'whole'}: {expected}")
                for model in MODELS:
                    routes.clear()
                    came = await played(python, program, url, model, stream)
                    same = came == expected and done
                    equal &= same
                    said = "equal" if same else f"UNEQUAL: {came}"
                    print(f"  {model} ({''.join(routes)}): {said}", flush=True)
    return equal


def _versions(python: str) -> str:
    code = (
        "from importlib.metadata import version\n"
        f"print(', '.join(f'{{n}} {{version(n)}}' for n in {PACKAGES!r}))"
    )
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", required=True, help="of an environment with the frameworks")
    given = parser.parse_args().python
    print(_versions(given))
    raise SystemExit(0 if asyncio.run(compared(given)) else 1)
