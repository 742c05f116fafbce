"""What a smolagents agent solves through `r2v serve`: with the SLM, the teacher and the router.

    r2v serve runs/humaneval_qwen_cpu slm.max_model_len=6144 teacher.max_model_len=6144
    .venv/bin/python examples/agent_frameworks/play.py --python frameworks/bin/python \\
        --url http://127.0.0.1:8080/v1 --programs 10

`frameworks` is the environment of `check.py`. `--programs`: a CodeAgent on clean HumanEval+ tasks
of a run's test split (R2V_DATA_DIR); what it writes runs in their sandbox. `--games`: a
ToolCallingAgent in small TextWorld games. Prints a row a model.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import gymnasium
from aiohttp import web

from envs.coding.env import CodeEnv
from envs.coding.tasks import task_ids
from envs.textworld.env import TextWorldEnv
from envs.textworld.games import GameFamily, draw_games
from envs.textworld.generator import generate
from r2v_dist.config.places import cache_folder
from r2v_dist.seeding import stable_hash

PROGRAM = Path(__file__).parent / "in_a_world.py"
MODELS = ("r2v-slm", "r2v-teacher", "r2v")
DEADLINE_S = 1800
SMALL_GAMES = (
    *(("instructions", "full"), ("objects", (3, 6))),
    *(("quest_length", (2, 4)), ("rooms", (1, 3))),
)


@dataclass(frozen=True)
class World:
    """An environment that is made for one episode, the answers that an agent may give there, and
    whether these are programs (CodeAgent) or calls of the tool `act` (ToolCallingAgent).
    """

    make: Callable[[], gymnasium.Env[str, str]]
    steps: int
    takes: Literal["programs", "commands"]

    def action(self, handed_in: str) -> str:
        """What the environment is given for it."""
        return f"```python\n{handed_in}\n```" if self.takes == "programs" else handed_in


@dataclass(frozen=True)
class Played:
    """An episode: what it was worth, and who answered each request. `failed` says why the agent's
    program ended before its episode did.
    """

    reward: float
    answered: tuple[str, ...]
    failed: str = ""


def programs(count: int) -> list[World]:
    """Tasks of HumanEval+, in the order in which a run draws them."""
    names = sorted(task_ids("humaneval_plus"), key=lambda name: stable_hash("code-split", name))
    made = (partial(CodeEnv, name, 3, protocol="answers") for name in names[:count])
    return [World(make, 3, "programs") for make in made]


def games(count: int) -> list[World]:
    """Games of up to three rooms and four commands, whose goal names every step."""
    drawn = draw_games([GameFamily("custom", SMALL_GAMES)], "agent_frameworks", count, seed=0)
    files = generate(drawn, cache_folder("textworld"), workers=os.cpu_count() or 1)
    return [World(partial(TextWorldEnv, str(file), 12), 12, "commands") for file in files]


async def played(python: str, url: str, model: str, world: World) -> Played:
    """One episode of the agent in a world of its own."""
    env = world.make()
    observation, info = env.reset()
    rewards = [0.0]

    async def act(request: web.Request) -> web.Response:
        text = str(json.loads(await request.read()))
        action = world.action(text)
        seen, reward, ended, truncated, _ = await asyncio.to_thread(env.step, action)
        rewards.append(float(reward))
        return web.json_response({"observation": seen, "over": ended or truncated})

    application = web.Application()
    application.router.add_post("/", act)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    address = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    goal = f"Goal: {info['goal']}\n{observation}"
    try:
        answered, failed = await _agent(
            [python, str(PROGRAM), model, str(world.steps), world.takes],
            goal,
            {
                "OPENAI_BASE_URL": url,
                "OPENAI_API_KEY": "any",
                "WORLD_URL": address,
            },
        )
    finally:
        await runner.cleanup()
        env.close()
    return Played(max(rewards), answered, failed)


async def _agent(
    command: list[str], goal: str, variables: dict[str, str]
) -> tuple[tuple[str, ...], str]:
    """Run the agent's program; who answered it, and the last line of its error."""
    pipe = subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, env=os.environ | variables, stdin=pipe, stdout=pipe, stderr=pipe
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            output, errors = await process.communicate(goal.encode())
    except TimeoutError:
        process.kill()
        await process.wait()
        return (), f"no end within {DEADLINE_S} s"
    if process.returncode:
        return (), (errors.decode().strip().splitlines() or ["ended without a message"])[-1]
    return tuple(json.loads(output.decode().strip().splitlines()[-1])), ""


async def _all(python: str, url: str, at_once: int, models: list[str], worlds: list[World]) -> None:
    gate = asyncio.Semaphore(at_once)

    async def one(model: str, world: World) -> Played:
        async with gate:
            return await played(python, url, model, world)

    for model in models:
        came = await asyncio.gather(*(one(model, world) for world in worlds))
        for failure in filter(None, (each.failed for each in came)):
            print(f"  {model}: {failure}", file=sys.stderr)
        answers = [who for each in came for who in each.answered]
        asked = sum(who == "teacher" for who in answers)
        won = sum(each.reward > 0 for each in came)
        failed = sum(bool(each.failed) for each in came)
        print(
            f"{model:12} solved {won} of {len(came)}, {len(answers)} answers, "
            f"{asked} by the teacher, {failed} agents failed",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", required=True, help="of an environment with smolagents")
    parser.add_argument("--url", required=True, help="of the gateway, with /v1")
    parser.add_argument("--programs", type=int, default=0, help="tasks of HumanEval+")
    parser.add_argument("--games", type=int, default=0, help="games of TextWorld")
    parser.add_argument("--at-once", type=int, default=4, help="episodes side by side")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    given = parser.parse_args()
    if not given.programs and not given.games:
        parser.error("nothing to play; give --programs or --games")
    chosen = (programs(given.programs) if given.programs else []) + games(given.games)
    asyncio.run(_all(given.python, given.url, given.at_once, given.models, chosen))
