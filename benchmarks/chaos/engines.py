"""Engines and scorers that are killed, overloaded or slow to start.

The engines are stand-ins (`benchmarks.sleeping_engine`): actors, watch, routing, runners, games and
collector are those of a run, only the computing is not. The scorers are real ones, with random
weights. A stage is one call of `roll_out`; every stage plays the same units into a folder of its
own, and the first one, which nobody disturbs, says what the others must come to.
"""

import asyncio
import contextlib
import itertools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.dispatcher import roll_out
from actors.env_runner import Deployment, RunnerSetup
from actors.language_models.tokenizer import load_tokenizer
from actors.language_models.vllm import VllmModel
from actors.runner_group import RunnerGroup
from actors.verifier.client import ScorerHandle
from actors.verifier.server import start_verifier
from actors.vllm.server_handle import ModelServer
from benchmarks.chaos.accounts import Accounts, compare, stage_outcomes
from benchmarks.chaos.processes import Family
from benchmarks.chaos.whole_runs import LOOK_S, Killer
from benchmarks.games import make_tasks, make_units
from benchmarks.harness import Mismatch
from benchmarks.sleeping_engine import SleepingEngine
from cluster.session import ray_session
from r2v_dist.config.cluster import ClusterConfig
from r2v_dist.config.models import ModelConfig
from r2v_dist.config.perturbation import PerturbConfig
from r2v_dist.config.verifier import VerifierConfig
from r2v_dist.episodes import Arm
from r2v_dist.language_model import Request, Sampling
from r2v_dist.storage.checkpoints import Checkpoint

MODEL = Path(__file__).parents[2] / "models" / "textworld-tiny"
CLUSTER = ClusterConfig(
    num_cpus=4, runners=2, in_flight=8, max_restarts=100, shard_episodes=16, shard_seconds=1.0
)
TASKS = 4
SEEDS = 12
VERSION = "sleeping"
SCORED = "random"
OVERLOAD = 10
"""Requests at once, as a multiple of what the engine computes at once."""


@dataclass(frozen=True)
class Stormed:
    """What stages with kills have come to, and whether only what was killed started again."""

    accounts: Accounts
    stages: int
    others_undisturbed: bool


def engine_storm(killer: Killer, folder: Path, family: Family) -> Stormed:
    """Kills one of two engines, again and again."""
    killer.noticed = True
    with ray_session(CLUSTER, folder / "logs"), _engines(2, "answer_s=0.2") as server:
        return _stages(
            killer, server, Arm("random", 0.5, VERSION, "expert", 0), None, folder, family
        )


def scorer_storm(killer: Killer, folder: Path, family: Family) -> Stormed:
    """Kills one of two scorers, again and again."""
    path = folder / "verifier"
    if not path.is_dir():
        _make_verifier(path)
    config = VerifierConfig(replicas=2)
    with ray_session(CLUSTER, folder / "logs"), _engines(1, "answer_s=0.05&tokens=6") as server:
        actors = start_verifier(str(path), SCORED, config)
        deployment = Deployment(config, [ScorerHandle(actor) for actor in actors])
        arm = Arm("best_of_k", None, VERSION, "expert", 0, SCORED)
        return _stages(killer, server, arm, deployment, folder, family)


def _stages(
    killer: Killer,
    server: ModelServer,
    arm: Arm,
    deployment: Deployment | None,
    folder: Path,
    family: Family,
) -> Stormed:
    units = make_units(make_tasks(TASKS), list(range(SEEDS)), arm)
    expert = ModelConfig(backend="expert")
    setup = RunnerSetup(server.config, expert, str(MODEL), "", PerturbConfig(), 600.0)
    runners = RunnerGroup(setup, server, None, CLUSTER, folder / "logs")
    if deployment is not None:
        runners.deploy(deployment)
    members = list(runners.members)

    def play(name: str) -> Path:
        stage = folder / killer.target / name
        roll_out(units, stage, runners, CLUSTER, lambda *_: None)
        return stage

    try:
        calm = stage_outcomes(play("calm"))
        accounts = Accounts()
        for number in itertools.count(1):
            with _killing(killer, server, family, f"stage {number}"):
                stage = play(f"stage-{number}")
            accounts += compare(calm, stage_outcomes(stage))
            if killer.done:
                break
            killer.at_boundary(family.of(killer.target), f"stage {number}")
        by_itself = server.restarts - (len(killer.kills) if killer.target == "engine" else 0)
        return Stormed(accounts, number, members == list(runners.members) and by_itself <= 0)
    finally:
        runners.stop()


@contextlib.contextmanager
def _killing(killer: Killer, server: ModelServer, family: Family, stage: str) -> Iterator[None]:
    """Kill while the block runs."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK_S):
            killer.look(family.of(killer.target), stage)
            if killer.target == "engine":
                killer.notice(server.restarts)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def _engines(
    replicas: int, behaviour: str, cluster: ClusterConfig = CLUSTER, **settings: Any
) -> Iterator[ModelServer]:
    """Engines that sleep, at work."""
    look = load_tokenizer(str(MODEL)).encode("look", add_special_tokens=False)[0]
    config = ModelConfig(
        backend="vllm", model=str(MODEL), replicas=replicas, max_model_len=4096, **settings
    )
    server = ModelServer(
        "slm", config, Checkpoint(f"{behaviour}&token={look}", VERSION), cluster, SleepingEngine
    )
    try:
        server.wait()
        yield server
    finally:
        server.stop()


def _make_verifier(path: Path) -> None:
    """A verifier with random opinions."""
    import torch
    from transformers import AutoTokenizer

    from learners.verifier.trainer import load_backbone

    torch.manual_seed(0)
    model = load_backbone(str(MODEL))
    torch.nn.init.normal_(model.score.weight)
    model.save_pretrained(path)
    AutoTokenizer.from_pretrained(MODEL).save_pretrained(path)


def no_false_alarm(seconds: float, folder: Path) -> dict[str, Any]:
    """An engine with ten times as much work as it can do, and at the same time one that takes as
    long to start: how often each was started again.
    """
    patient = CLUSTER.model_copy(update={"engine_start_deadline_s": seconds + 300})
    with ray_session(CLUSTER, folder / "logs"), ThreadPoolExecutor(1) as pool:
        cold = pool.submit(_cold_start, seconds, patient)
        with _engines(1, "answer_s=0.5", max_num_seqs=4, timeout_s=2.0) as server:
            answers = asyncio.run(_overload(server, seconds))
            restarts = server.restarts
        return {
            "overload_s": seconds,
            "overload_times": OVERLOAD,
            "overload_answers": answers,
            "overload_restarts": restarts,
            "cold_start_s": seconds,
            "cold_start_restarts": cold.result(),
        }


def _cold_start(seconds: float, cluster: ClusterConfig) -> int:
    with _engines(1, f"start_s={seconds}", cluster) as server:
        return server.restarts


async def _overload(server: ModelServer, seconds: float) -> int:
    """Ask all the time; the number of answers. Raises what a question fails with."""
    model = VllmModel(server.handles(), load_tokenizer(str(MODEL)), server.config, "slm")
    end = time.monotonic() + seconds
    numbers = itertools.count()

    async def ask() -> int:
        answers = 0
        while time.monotonic() < end:
            number = next(numbers)
            request = Request((), f"Goal: {number}", Sampling(max_tokens=4), number)
            answers += bool((await model.sample(request)).candidates)
        return answers

    asking = [ask() for _ in range(OVERLOAD * server.config.max_num_seqs)]
    total = sum(await asyncio.gather(*asking))
    if not total:
        raise Mismatch("an engine that is overloaded has answered nothing")
    return total
