"""Env runners of one process: the same stage, the same failures, and nothing goes on once it
is over.
"""

import asyncio
import errno
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from actors import env_runner
from actors.dispatcher import remaining, roll_out
from actors.env_runner import EnvRunner, RunnerSetup
from actors.language_models.simulated import SimulatedModel
from actors.local_runners import LocalRunners
from actors.totals import Totals
from r2v_dist.agent.tree import TreeEnv
from r2v_dist.config.cluster import ClusterConfig
from r2v_dist.config.models import ModelConfig
from r2v_dist.config.perturbation import PerturbConfig
from r2v_dist.episodes import Arm, Episode, Task, Unit
from r2v_dist.errors import RuntimeFailure, UsageError
from r2v_dist.language_model import Answer, Request
from r2v_dist.storage import rollouts as rollout_store
from r2v_dist.storage.quarantine import quarantined

SLM = ModelConfig(backend="simulated", failure_rate=0.4)
SETUP = RunnerSetup(SLM, ModelConfig(backend="expert"), "", "", PerturbConfig(), unit_timeout_s=120)
CLUSTER = ClusterConfig(executor="inline", runners=2, in_flight=4, shard_episodes=8)


def units(tasks: list[Task], seeds: int, policy: str = "simulated-0.4") -> list[Unit]:
    arms = tuple(Arm(name, None, policy, "expert", 0) for name in ("slm_only", "teacher_only"))
    return [Unit("evaluate", "hash", task, z, 0, arms) for task in tasks for z in range(seeds)]


def play(runners: LocalRunners, asked: list[Unit], folder: Path, restarts: int = 3) -> Totals:
    cluster = CLUSTER.model_copy(update={"max_restarts": restarts})
    return roll_out(asked, folder, runners, cluster, lambda *_: None)


@pytest.fixture
def runners() -> Iterator[LocalRunners]:
    with LocalRunners(SETUP, CLUSTER.runners) as runners:
        yield runners


def test_a_second_call_plays_only_the_rest(
    runners: LocalRunners, tasks: list[Task], tmp_path: Path
) -> None:
    assert play(runners, units(tasks, 1), tmp_path).units == len(tasks)
    everything = units(tasks, 3)
    assert len(remaining(everything, rollout_store.committed_keys(tmp_path))) == 2 * len(tasks)
    rest = play(runners, everything, tmp_path)
    assert (rest.units, rest.episodes) == (2 * len(tasks), 4 * len(tasks))
    assert play(runners, everything, tmp_path) == Totals()


def test_everything_happens_in_the_thread_that_asks(
    runners: LocalRunners, tasks: list[Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    met = set[tuple[int, threading.Thread]]()
    commit = rollout_store.commit

    def watched(*arguments: object) -> None:
        met.add((os.getpid(), threading.current_thread()))
        commit(*arguments)  # type: ignore[arg-type]

    async def waits(world: TreeEnv, action: str) -> object:
        met.add(await asyncio.to_thread(lambda: (os.getpid(), threading.current_thread())))
        return world.step(action)

    monkeypatch.setattr(rollout_store, "commit", watched)
    monkeypatch.setattr(TreeEnv, "astep", waits)
    play(runners, units(tasks, 1), tmp_path)
    assert met == {(os.getpid(), threading.current_thread())}


def test_what_a_runner_refuses_ends_the_stage_at_once(tasks: list[Task], tmp_path: Path) -> None:
    misspelt = replace(SETUP, perturb=PerturbConfig(rates={"typo": 0.5}))
    with (
        LocalRunners(misspelt, 1) as runners,
        pytest.raises(UsageError, match=r"^perturb\.rates: unknown operator typo"),
    ):
        play(runners, units(tasks, 2), tmp_path)


def gone() -> Task:
    """A task whose game is not there."""
    return Task("gone", "test", "r2v/TextWorld-v0", (("game", "/nowhere/gone.z8"),))


def test_where_nothing_else_is_finished_the_stage_stops_with_the_first_cause(
    runners: LocalRunners, tmp_path: Path
) -> None:
    with pytest.raises(
        RuntimeFailure, match=r"^1 units fail on this process.*gone z=0.*gone\.z8 does not exist"
    ):
        play(runners, units([gone()], 1), tmp_path)


def test_a_task_that_cannot_be_made_becomes_rows_and_the_others_are_played(
    runners: LocalRunners, tasks: list[Task], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    totals = play(runners, units([gone(), *tasks], 2), tmp_path)
    assert totals.quarantined == 4
    [given_up] = quarantined(tmp_path)
    assert (given_up.task, given_up.episodes) == ("gone", 4)
    assert "gone.z8 does not exist" in given_up.detail
    assert totals.episodes == 4 * (len(tasks) + 1)
    assert "task gone is given up, its episodes count as failures: " in capfd.readouterr().err
    assert play(runners, units([gone(), *tasks], 2), tmp_path) == Totals()


def test_a_row_never_names_a_policy_that_did_not_act(
    runners: LocalRunners, tasks: list[Task], tmp_path: Path
) -> None:
    with pytest.raises(RuntimeFailure, match=r"answered as version simulated-0\.4"):
        play(runners, units(tasks[:1], 1, policy="another"), tmp_path, restarts=0)
    assert not rollout_store.committed_keys(tmp_path)


def test_a_disk_that_refuses_is_named_and_no_unit_is_blamed(
    runners: LocalRunners, tasks: list[Task]
) -> None:
    with pytest.raises(
        RuntimeFailure, match=r"^episodes cannot be written to /proc/r2v/rollouts: "
    ) as failure:
        play(runners, units(tasks, 1), Path("/proc/r2v/rollouts"))
    assert "unit" not in str(failure.value)


def test_a_full_disk_in_the_middle_of_an_episode_is_no_outcome(
    runners: LocalRunners, tasks: list[Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/cache/game")

    monkeypatch.setattr(TreeEnv, "astep", full)
    fails = r"units fail on this process.*: /cache/game: No space left on device; make room there"
    with pytest.raises(RuntimeFailure, match=fails):
        play(runners, units(tasks, 1), tmp_path)
    assert not rollout_store.committed_keys(tmp_path)


def test_a_unit_past_its_deadline_is_played_again_and_then_given_up(
    tasks: list[Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[str] = []
    real = env_runner.play

    async def slow(world: TreeEnv, unit: Unit, *rest: Any) -> Episode:
        if unit.task != tasks[0]:
            return await real(world, unit, *rest)
        tries.append("one")
        await asyncio.sleep(60)
        raise AssertionError

    monkeypatch.setattr("actors.env_runner.play", slow)
    with LocalRunners(replace(SETUP, unit_timeout_s=0.5), 1) as runners:
        totals = play(runners, units(tasks, 1), tmp_path)
    assert len(tries) == 3
    assert totals.quarantined == 2
    assert "ran past 0.5 s" in quarantined(tmp_path)[0].detail


def test_a_unit_that_waits_for_a_model_past_its_deadline_is_not_given_up(
    tasks: list[Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(self: SimulatedModel, request: Request) -> Answer:
        await asyncio.sleep(60)
        raise AssertionError

    monkeypatch.setattr(SimulatedModel, "sample", silent)
    with (
        LocalRunners(replace(SETUP, unit_timeout_s=0.5), 1) as runners,
        pytest.raises(RuntimeFailure, match=r"failed 2 times.* past 0\.5 s; it waits for the slm"),
    ):
        play(runners, units(tasks, 1), tmp_path, restarts=1)
    assert quarantined(tmp_path) == []


def test_what_is_interrupted_goes_on_no_more_and_says_nothing(
    tasks: list[Task],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    ended: list[str] = []

    async def interrupted(self: EnvRunner, unit: Unit, deliver: object) -> Totals:
        if unit.task == tasks[-1]:
            raise KeyboardInterrupt  # as the handler of Ctrl-C does where the program is
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(unit.task.id)
        raise AssertionError

    monkeypatch.setattr(EnvRunner, "run", interrupted)
    with pytest.raises(KeyboardInterrupt), LocalRunners(SETUP, 1) as runners:
        play(runners, units(tasks, 1), tmp_path)
    assert set(ended) >= {task.id for task in tasks[:-1]}
    assert capfd.readouterr().err == ""


class Finishing(EnvRunner):
    """Plays nothing: the first unit ends at once, the others interrupt some turns later."""

    turns = 0

    async def run(self, unit: Unit, deliver: Any) -> Totals:
        if unit.z:
            for _ in range(self.turns):
                await asyncio.sleep(0)
            raise KeyboardInterrupt
        return Totals()


@pytest.mark.parametrize("turns", range(6))
def test_an_interruption_ends_the_block_whenever_it_comes(
    turns: int, tasks: list[Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Finishing, "turns", turns)
    with pytest.raises(KeyboardInterrupt):
        play_until_interrupted(units(tasks[:1], 2))


def play_until_interrupted(asked: list[Unit]) -> None:
    with LocalRunners(SETUP, 1, Finishing) as runners:
        under_way = [runners.start(runners.members[0], unit) for unit in asked]
        while runners.finished(under_way, 5.0):
            pass
