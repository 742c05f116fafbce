"""Agent programs as tasks, and who plays them: a scripted SLM, a teacher and a router."""

import asyncio
import json
from typing import Any

from envs.make import make, perturbed
from r2v_dist.agent.episode import ModelRole, Models, play
from r2v_dist.agent.tree import Tree, TreeEnv
from r2v_dist.config.perturbation import PerturbConfig
from r2v_dist.episodes import Arm, Branch, Episode, Task, Unit
from r2v_dist.language_model import Answer, Candidate, Request, Sampling
from r2v_dist.router.registry import RouterModels
from r2v_dist.seeding import rng_for
from tests.gateway_rig import ScriptedSlm, ScriptedVerifier
from tests.integration.serving.test_equality import MODEL

CLIENT = """
import json, os, sys, urllib.request
M = []
def ask(text, **more):
    M.append(text if isinstance(text, dict) else {"role": "user", "content": text})
    told = {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"]}
    body = json.dumps({"model": "any", "messages": M} | more).encode()
    where = os.environ["OPENAI_BASE_URL"] + "/chat/completions"
    answer = urllib.request.urlopen(urllib.request.Request(where, body, told))
    M.append(json.load(answer)["choices"][0]["message"])
    return M[-1]
"""
"""A program without a library: it starts in a moment."""


def proposals(request: Request) -> tuple[Candidate, ...]:
    words = ("look", "inventory", "wait", "go north", "take all")
    history = [(str(turn.user), turn.action) for turn in request.history]
    rng = rng_for(history, str(request.user), request.seed)
    texts = rng.sample(words, 3)
    return tuple(Candidate(t, tuple(t.encode()), (-rng.random(),) * 3) for t in texts)


class Teacher:
    async def sample(self, request: Request) -> Answer:
        return Answer((Candidate(("examine me", "look")[request.seed % 2]),), "teacher")


MODELS = Models(
    ModelRole("slm", ScriptedSlm(propose=proposals), Sampling(n=3)),
    ModelRole("teacher", Teacher(), Sampling()),
    ScriptedVerifier(),
    RouterModels({("r2v", 0): MODEL}),
)
ARM = Arm("r2v", 0.7, "slm-1", "teacher", 0)


def played(task: Task, z: int | None, *runs: Arm | Branch) -> list[Episode]:
    env = make(task, False)

    async def all_runs() -> list[Episode]:
        world = TreeEnv(
            perturbed(env, task, z, PerturbConfig(rates=dict.fromkeys(OWN_WORDS, 0.0))), Tree()
        )
        unit = Unit("evaluate", "hash", Task("same", "test", "none", ()), z, 0, ())
        return [await play(world, unit, run, MODELS) for run in runs or (ARM,)]

    try:
        return asyncio.run(all_runs())
    finally:
        env.close()


def program(*command: str, **given: Any) -> Task:
    arguments = {"command": json.dumps(command), "max_steps": 8, "step_s": 20.0} | given
    return Task("same", "test", "r2v/Program-v0", tuple(arguments.items()))


OWN_WORDS = (
    "semantic_distractor",
    "misleading_error",
    "misleading_instruction",
    "wrong_fix",
    "decoy_error",
)
"""Operators that speak in the words of one environment."""
