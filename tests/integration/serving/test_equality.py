"""Cases 38, 47 and 87: played request by request through the HTTP door, episodes take the routes of
the offline loop to the last decision, with scores and risks equal bit for bit.
"""

import asyncio
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import httpx
import numpy as np
import pytest

from actors.language_models.openai import OpenAIModel
from r2v_dist.agent.episode import ModelRole, Models, play
from r2v_dist.agent.tree import Tree, TreeEnv
from r2v_dist.chat import opening_message
from r2v_dist.config.models import ModelConfig
from r2v_dist.episodes import Arm, Episode, Task, Unit, next_prefix
from r2v_dist.language_model import Candidate, Request, Sampling
from r2v_dist.router.calibration import Calibrator
from r2v_dist.router.features import FEATURE_NAMES, features
from r2v_dist.router.mlp import Mlp
from r2v_dist.router.model import RouterModel
from r2v_dist.router.registry import RouterModels
from r2v_dist.router.scaler import Scaler
from r2v_dist.router.step_batch import StepBatch
from r2v_dist.router.switching import Hysteresis
from r2v_dist.seeding import rng_for, stable_hash
from r2v_dist.serving.policy import Point, Policy
from r2v_dist.storage import step_table
from tests.gateway_rig import Rig, ScriptedSlm, ScriptedVerifier, StubTeacher, rig

EPISODES = 200
MAX_STEPS = 9
TASK = Task("ladder", "test", "none", (("max_steps", MAX_STEPS),))
SAMPLING = Sampling(n=3, max_tokens=24)
WORDS = ("up", "down", "wait", "look around", "climb the ladder")


class Ladder:
    """Climb four rungs by saying `up`; what is seen depends on the seed, and speaks of errors."""

    def __init__(self, z: int) -> None:
        self._z = z

    def reset(self) -> tuple[str, dict[str, Any]]:
        self._rung = self._t = 0
        return self._told("start"), self._info()

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self._t += 1
        self._rung += action == "up"
        won = self._rung == 4
        out = self._t == MAX_STEPS
        info = self._info()
        if won or out:
            info["stop_reason"] = "won" if won else "step_limit"
        return self._told(action), float(won), won, out and not won, info

    def expert_action(self) -> str | None:
        return "up"

    def _told(self, action: str) -> str:
        wrong = rng_for(self._z, self._t, action).random() < 0.3
        return f"rung {self._rung}, {'error: it failed' if wrong else 'fine'} {self._z}"

    def _info(self) -> dict[str, Any]:
        told = self._told("start")
        return {"goal": "climb", "clean_observation": told, "perturbations": [], "executed": True}


def proposals(request: Request) -> tuple[Candidate, ...]:
    """Candidates as a function of every id and text of the prompt, and of the seed."""
    history = [(turn.user, turn.action, turn.action_ids) for turn in request.history]
    rng = rng_for(history, request.user, request.seed)
    made = []
    for _ in range(3):
        text = rng.choice(WORDS)
        ids = tuple(text.encode())
        made.append(Candidate(text, ids, tuple(-rng.random() for _ in (*ids, 0))))
    return tuple(made)


def taught(body: dict[str, Any]) -> str:
    return "up" if body["seed"] % 4 else "wait"


def random_router(score: str) -> RouterModel:
    """A router with weights by chance: every feature counts."""
    rng = np.random.default_rng(8)
    count = len(FEATURE_NAMES)

    def mlp(*sizes: int) -> Mlp:
        pairs = itertools.pairwise(sizes)
        layers = [(rng.normal(size=(o, i)) / i**0.5, rng.normal(size=o)) for i, o in pairs]
        return Mlp(tuple(layers))

    heads = {name: mlp(count, 6, 1) for name in ("rho", "rho1", "rhoT")}
    heads["policy"] = mlp(count + 3, 6, 1)
    std_F = rng.uniform(0.2, 0.6, count)
    calibrators = {"rho": Calibrator(slope=0.7, offset=0.1)}
    scaler = Scaler.unlimited(rng.normal(size=count), std_F)
    model = RouterModel("r-1", "decoupled", scaler, heads, calibrators)
    return replace(model, score=score)  # type: ignore[arg-type]


MODEL = random_router("policy")
POINTS = {
    "selected": Point("selected", 0.75),
    "certified": Point("certified", 0.7),
    "bayes": Point("bayes", 0.0, rule=True),
    "budget": Point("budget", 0.65, cheap=0.8, share=0.5),
}
HYSTERESIS = {"r2v": Hysteresis(minimum_hold=2, releases=2, most_switches=4)}
HYSTERESES = {
    "holds": HYSTERESIS["r2v"],
    "prices": Hysteresis(cold_token_price=2e-3),
}
POLICY = Policy("r2v", RouterModels({("r2v", 0): MODEL}), 0, POINTS, "selected", "r-1")


@dataclass(frozen=True)
class Decided:
    """What one step came to."""

    route: str
    action: str
    score: float
    features: str = "exact"
    calibrated: bool = True
    risk: float = math.nan
    threshold: float = math.nan
    id: str = ""


async def through_the_gateway(client: httpx.AsyncClient, z: int, point: str) -> list[Decided]:
    """One episode, all messages again at every step."""
    env = Ladder(z)
    observation, info = env.reset()
    messages = [{"role": "user", "content": opening_message(info["goal"], observation)}]
    prefix = 0
    decided = []
    while True:
        place = (TASK.id, z, prefix, 0)
        seeds = {role: stable_hash(*place, role) % 2**31 for role in ("slm", "teacher")}
        body = {"model": f"r2v@{point}", "messages": messages, "r2v": {"seeds": seeds}}
        answer = (await client.post("/v1/chat/completions", json=body)).json()
        told = answer["r2v"]
        action = answer["choices"][0]["message"]["content"]
        decided.append(
            Decided(
                told["route"],
                action,
                told["score"],
                told["features"],
                told["calibrated"],
                told["risk"],
                told["threshold"],
                answer["id"],
            )
        )
        observation, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            return decided
        prefix = next_prefix(prefix, action)
        messages.append({"role": "assistant", "content": action})
        messages.append({"role": "user", "content": observation})


def read_so_far(request: Request) -> int:
    """A prompt's length, about as a tokenizer would count it."""
    said = [f"{turn.user}{turn.action}" for turn in request.history]
    return len("".join([*said, str(request.user)]).split())


def routers(point: str, held: str) -> RouterModels:
    model = replace(MODEL, score="value") if point == "bayes" else MODEL
    return RouterModels({("r2v", 0): model}, hysteresis={"r2v": HYSTERESES[held]} if held else {})


def models_of(r: Rig, point: str, held: str) -> Models:
    """The same models, as the loop that evaluates asks them."""
    config = ModelConfig(
        backend="openai", model="fine", base_url=r.upstream._url.removesuffix("/chat/completions")
    )
    return Models(
        ModelRole("slm", ScriptedSlm(propose=proposals, count=read_so_far), SAMPLING),
        ModelRole("teacher", OpenAIModel(config), Sampling(1, 0.7, 0.95, 24)),
        ScriptedVerifier(),
        routers(point, held),
    )


async def offline(models: Models, z: int, threshold: float) -> Episode:
    """The same episode in the loop that evaluates."""
    arm = Arm("r2v", threshold, "slm-1", "fine", 0)
    unit = Unit("evaluate", "hash", TASK, z, 0, (arm,))
    return await play(TreeEnv(Ladder(z), Tree(), False), unit, arm, models)


async def compared(point: str, episodes: Sequence[int], held: str = "") -> tuple[int, int]:
    """How many decisions were compared, and how many of them were the teacher's."""
    decisions = escalations = 0
    policy = replace(POLICY, models=routers("selected", held), _watched={})
    async with rig(
        StubTeacher(text=taught), ScriptedSlm(propose=proposals, count=read_so_far),
        ScriptedVerifier(), policy, max_steps=MAX_STEPS,
    ) as r, httpx.AsyncClient(base_url=r.url, timeout=30) as client:  # fmt: skip
        models = models_of(r, point, held)
        for z in episodes:
            online = await through_the_gateway(client, z, point)
            episode = await offline(models, z, online[0].threshold)
            expected = [Decided(s.actor, s.action, s.score or math.nan) for s in episode.steps]
            assert [(d.route, d.action) for d in online] == [(d.route, d.action) for d in expected]
            assert [d.score for d in online] == [d.score for d in expected]
            assert {(d.features, d.calibrated) for d in online} == {("exact", True)}
            rows = StepBatch.from_rows(step_table.to_table([episode]), MAX_STEPS)
            risks = [float(MODEL.predict(f[None]).rho[0]) for f in features(rows)]
            assert [d.risk for d in online] == risks
            decisions += len(online)
            escalations += sum(d.route == "teacher" for d in online)
    return decisions, escalations


@pytest.mark.parametrize("held", HYSTERESES)
def test_cases_47_48_hysteresis_holds_the_same_steps_in_both(held: str) -> None:
    decisions, escalations = asyncio.run(compared("selected", range(20), held))
    assert decisions > 50
    assert 0.1 < escalations / decisions < 0.9


@pytest.mark.parametrize("point", POINTS)
def test_cases_38_47_87_routes_and_risks_are_those_of_the_offline_loop(point: str) -> None:
    decisions, escalations = asyncio.run(compared(point, range(EPISODES // len(POINTS))))
    assert decisions > 200
    assert 0.1 < escalations / decisions < 0.9
