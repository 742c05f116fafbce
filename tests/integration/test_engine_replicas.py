"""Replicas of a role under overload, deaths and hangs: nothing that was asked is lost, nobody else
is disturbed, and a busy engine is not started again. The engines only sleep.
"""

import asyncio
import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.exceptions import RayActorError
from transformers import AutoTokenizer

from actors.dispatcher import roll_out
from actors.env_runner import RunnerSetup
from actors.language_models.vllm import VllmModel
from actors.runner_group import RunnerGroup
from actors.totals import Totals
from actors.vllm.health import Report, State
from actors.vllm.server import HEALTH_GROUP
from actors.vllm.server_handle import ModelServer
from benchmarks.sleeping_engine import SleepingEngine
from cluster import resources
from r2v_dist.config.cluster import ClusterConfig
from r2v_dist.config.models import ModelConfig
from r2v_dist.config.perturbation import PerturbConfig
from r2v_dist.episodes import Arm, Task, Unit
from r2v_dist.errors import RuntimeFailure
from r2v_dist.language_model import Answer, Request, Sampling
from r2v_dist.storage import rollouts as rollout_store
from r2v_dist.storage.checkpoints import Checkpoint

CLUSTER = ClusterConfig(engine_probe_deadline_s=2.0, max_restarts=2)


@contextlib.contextmanager
def serving(
    behaviour: str, cluster: ClusterConfig = CLUSTER, **settings: Any
) -> Iterator[ModelServer]:
    config = ModelConfig(backend="vllm", model="sleeping", **settings)
    server = ModelServer("slm", config, Checkpoint(behaviour, "v1"), cluster, SleepingEngine)
    try:
        server.wait()
        yield server
    finally:
        server.stop()


def client(server: ModelServer, tiny_model: Path) -> VllmModel:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    return VllmModel(server.handles(), tokenizer, server.config, "slm")


def request(number: int) -> Request:
    return Request((), f"Goal: {number}", Sampling(max_tokens=4), number)


def health(actor: Any) -> Report:
    probe = actor.health.options(concurrency_group=HEALTH_GROUP).remote()
    report: Report = ray.get(probe, timeout=20)
    return report


def works(actor: Any, instead_of: str = "") -> bool:
    """Whether the engine has answered since its last start; `instead_of`: in another process than
    that one."""
    try:
        report = health(actor)
    except RayActorError:
        return False
    return report.tokens > 0 and report.process != instead_of


def version(actor: Any) -> str:
    """What the engine serves; empty while its process starts."""
    try:
        return health(actor).version
    except RayActorError:
        return ""


def state(actor: Any) -> State | None:
    try:
        return health(actor).state
    except RayActorError:
        return None


def test_ten_times_as_much_as_an_engine_can_do_is_late_and_not_lost(
    ray_session: None, tiny_model: Path
) -> None:
    with serving("answer_s=0.1", max_num_seqs=4, timeout_s=2.0) as server:
        model = client(server, tiny_model)

        async def overload() -> list[Answer]:
            return await asyncio.gather(*(model.sample(request(n)) for n in range(160)))

        answers = asyncio.run(overload())
        assert len(answers) == 160
        assert server.restarts == 0


def test_one_of_two_is_killed_and_the_other_goes_on(
    ray_session: None, tiny_model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with serving("answer_s=0.1", max_num_seqs=8, replicas=2) as server:
        model = client(server, tiny_model)
        killed, other = server.actors
        first_process = health(killed).process
        undisturbed = health(other).process

        async def ask_until_it_is_back() -> list[Answer]:
            asked: list[asyncio.Future[Answer]] = []
            while len(asked) < 40 or not works(killed, instead_of=first_process):
                asked.append(asyncio.ensure_future(model.sample(request(len(asked)))))
                await asyncio.sleep(0.03)
                if len(asked) == 20:
                    ray.kill(killed, no_restart=False)
            return await asyncio.gather(*asked)

        answers = asyncio.run(asyncio.wait_for(ask_until_it_is_back(), 60))
        assert {answer.version for answer in answers} == {"v1"}
        assert server.restarts == 1
        assert health(other).process == undisturbed
    told = r"the slm engine 0 is started again \(1\): .* \(process (\d+) on \S+\)"
    said = re.search(told, capfd.readouterr().err)
    assert said is not None
    logs = resources.decided().logs
    assert logs is not None
    deadline = time.monotonic() + 30  # nobody waits for the copy of a log
    while not any(
        "an engine that sleeps: answer_s=0.1" in log.read_text()
        for log in logs.glob(f"slm_engine_0-*-{said[1]}.log")
    ):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_stage_outlives_an_engine_and_keeps_its_runners(
    ray_session: None, tiny_model: Path, tasks: list[Task], tmp_path: Path
) -> None:
    arm = Arm("slm_only", None, "v1", "expert", 0)
    units = [Unit("evaluate", "h", task, z, 0, (arm,)) for task in tasks for z in range(6)]
    cluster = ClusterConfig(runners=1, in_flight=8, shard_episodes=4)
    expert = ModelConfig(backend="expert")
    with serving("answer_s=0.05", max_num_seqs=8, replicas=2) as server:
        setup = RunnerSetup(server.config, expert, str(tiny_model), "", PerturbConfig(), 200)
        runners = RunnerGroup(setup, server, None, cluster)
        members = list(runners.members)
        killed: list[int] = []

        def kill_when_under_way(totals: Totals, _: int) -> None:
            if not killed:
                killed.append(totals.units)
                ray.kill(server.actors[0], no_restart=False)

        totals = roll_out(units, tmp_path, runners, cluster, kill_when_under_way)
        assert killed[0] < len(units)
        assert list(runners.members) == members
        runners.stop()
    assert totals.units == len(units)
    table = rollout_store.outcomes(rollout_store.read(tmp_path, ["key", "t", "success"]))
    keys = table["key"].to_pylist()
    assert sorted(keys) == sorted(str(unit.key(arm)) for unit in units)


@pytest.mark.timeout(90)
def test_an_engine_that_hangs_while_it_loads_is_started_again(ray_session: None) -> None:
    cluster = CLUSTER.model_copy(update={"engine_load_deadline_s": 0.5})
    with serving("", cluster, replicas=2) as server:
        while {version(actor) for actor in server.actors} != {"v1"}:
            time.sleep(0.1)
        server.load(Checkpoint("load_s=600", "v2"))
        while {version(actor) for actor in server.actors} != {"v2"}:
            time.sleep(0.1)
        assert server.restarts == 2


def test_a_slow_start_is_no_death_and_one_past_its_deadline_is_told(ray_session: None) -> None:
    with serving("start_s=3") as server:
        assert server.restarts == 0
    hasty = CLUSTER.model_copy(update={"engine_start_deadline_s": 1.0})
    with pytest.raises(RuntimeFailure, match="did not start"), serving("start_s=600", hasty):
        pass


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_an_engine_that_is_killed_while_it_starts_is_started_again(ray_session: None) -> None:
    """Three times, where one that raises would be given up after the second."""
    patient = CLUSTER.model_copy(update={"max_restarts": 5})
    config = ModelConfig(backend="vllm", model="sleeping")
    server = ModelServer("slm", config, Checkpoint("start_s=8", "v1"), patient, SleepingEngine)
    try:
        for kills in range(3):
            os.kill(starting(server.actors[0]).pid, signal.SIGKILL)
            while server.restarts == kills:
                server.check()
                time.sleep(0.1)
        server.wait()
        assert server.restarts == 3
    finally:
        server.stop()


def starting(actor: Any) -> Report:
    """How an engine is that starts, once its watch knows it too."""
    while True:
        with contextlib.suppress(RayActorError):
            report: Report = ray.get(
                actor.health.options(concurrency_group=HEALTH_GROUP).remote(), timeout=30
            )
            if report.state is State.STARTING:
                time.sleep(2)
                return report
        time.sleep(0.1)


@pytest.mark.slow
def test_an_engine_that_cannot_start_is_told_with_its_log(ray_session: None) -> None:
    told = (
        r"did not start: .*no such behaviour(.|\n)*log of the slm engine, process \d+ on "
        r"(.|\n)*sleeps: start_s=x"
    )
    with pytest.raises(RuntimeFailure, match=told), serving("start_s=x"):
        pass


@pytest.mark.timeout(90)
def test_engines_sleep_and_wake_and_one_that_died_asleep_waits_for_that(ray_session: None) -> None:
    cluster = CLUSTER.model_copy(update={"phases": "sleep", "engine_probe_deadline_s": 0.5})
    with serving("", cluster, replicas=2) as server:
        while {version(actor) for actor in server.actors} != {"v1"}:
            time.sleep(0.1)
        before = [health(actor).process for actor in server.actors]
        server.sleep()
        assert [health(actor).state for actor in server.actors] == [State.ASLEEP] * 2
        assert not server.answers
        ray.kill(server.actors[0], no_restart=False)
        while state(server.actors[0]) is not State.EMPTY or not server.restarts:
            time.sleep(0.1)
        time.sleep(3 * cluster.engine_probe_deadline_s)  # looked at meanwhile
        assert state(server.actors[0]) is State.EMPTY
        server.load(Checkpoint("token=7", "v2"))
        server.wait()
        while {version(actor) for actor in server.actors} != {"v2"}:
            time.sleep(0.1)
        assert health(server.actors[1]).process == before[1]
        assert server.restarts == 1
