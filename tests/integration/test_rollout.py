"""Rollouts through real Ray actors and real games: every unit once, whatever dies on the way."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from actors.dispatcher import remaining, roll_out
from actors.env_runner import Deployment, RunnerSetup
from actors.ray_runner import EnvRunnerActor
from actors.runner_group import RunnerGroup
from actors.totals import Totals
from r2v_dist.config.cluster import ClusterConfig
from r2v_dist.config.models import ModelConfig
from r2v_dist.config.perturbation import PerturbConfig
from r2v_dist.episodes import Arm, Task, Unit
from r2v_dist.errors import RuntimeFailure, Superseded, UsageError
from r2v_dist.storage import fence as fences
from r2v_dist.storage import rollouts as rollout_store
from r2v_dist.storage.lease import holding

SLM, TEACHER = ModelConfig(backend="simulated", failure_rate=0.4), ModelConfig(backend="expert")
SETUP = RunnerSetup(SLM, TEACHER, "", "", PerturbConfig(), unit_timeout_s=120)
CLUSTER = ClusterConfig(runners=2, in_flight=4, collectors=2, shard_episodes=8, shard_seconds=0.5)
ONE = CLUSTER.model_copy(update={"runners": 1})
ROUTERS: tuple[tuple[str, float | None], ...] = (
    ("slm_only", None),
    ("teacher_only", None),
    ("random", 0.3),
)


def units(tasks: list[Task], seeds: range) -> list[Unit]:
    arms = tuple(Arm(name, at, "simulated-0.4", "expert", 0) for name, at in ROUTERS)
    return [Unit("evaluate", "hash", task, z, 0, arms) for task in tasks for z in seeds]


def outcomes(folder: Path) -> list[tuple[str, bool, int]]:
    table = rollout_store.outcomes(rollout_store.read(folder, ["key", "t", "success", "n_steps"]))
    return sorted(
        zip(*(table[name].to_pylist() for name in ("key", "success", "n_steps")), strict=True)
    )


@pytest.fixture(scope="module")
def runners(ray_session: None) -> Iterator[RunnerGroup]:
    runners = RunnerGroup(SETUP, None, None, CLUSTER)
    yield runners
    runners.stop()


@pytest.fixture(scope="module")
def undisturbed(
    runners: RunnerGroup, tasks: list[Task], tmp_path_factory: pytest.TempPathFactory
) -> list[tuple[str, bool, int]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    totals = roll_out(units(tasks, range(12)), folder, runners, CLUSTER, lambda *_: None)
    assert (totals.units, totals.episodes, totals.drifted) == (48, 144, 0)
    assert totals.engine_calls < totals.asked
    return outcomes(folder)


def test_every_episode_once_and_the_teacher_helps(undisturbed: list[tuple[str, bool, int]]) -> None:
    assert len({key for key, *_ in undisturbed}) == len(undisturbed) == 144
    success = {
        name: [won for key, won, _ in undisturbed if f"|{name}" in key] for name, _ in ROUTERS
    }
    rates = {name: sum(won) / len(won) for name, won in success.items()}
    assert rates["slm_only"] < rates["random"] <= rates["teacher_only"]
    assert rates["teacher_only"] > 0.9


def test_a_second_call_runs_nothing_and_a_partial_one_only_the_rest(
    undisturbed: list[tuple[str, bool, int]],
    runners: RunnerGroup,
    tasks: list[Task],
    tmp_path: Path,
) -> None:
    roll_out(units(tasks, range(5)), tmp_path, runners, CLUSTER, lambda *_: None)
    everything = units(tasks, range(12))
    assert len(remaining(everything, rollout_store.committed_keys(tmp_path))) == 7 * len(tasks)
    rest = roll_out(everything, tmp_path, runners, CLUSTER, lambda *_: None)
    assert rest.units == 7 * len(tasks)
    assert roll_out(everything, tmp_path, runners, CLUSTER, lambda *_: None) == Totals()
    assert outcomes(tmp_path) == undisturbed


def process_of(actor: str) -> psutil.Process:
    children = psutil.Process().children(recursive=True)
    return next(child for child in children if child.name().startswith(f"ray::{actor}"))


def kill_once(actor: str, when: Callable[[], object]) -> threading.Thread:
    """Kill a process of that kind as the kernel's memory killer would, as soon as there is reason
    to.
    """

    def wait_and_kill() -> None:
        deadline = time.monotonic() + 60
        while not when() and time.monotonic() < deadline:
            time.sleep(0.05)
        process_of(actor).kill()

    killer = threading.Thread(target=wait_and_kill)
    killer.start()
    return killer


@pytest.mark.parametrize("actor", ["EnvRunner", "Collector"])
def test_who_dies_in_a_stage_is_replaced(
    actor: str,
    undisturbed: list[tuple[str, bool, int]],
    runners: RunnerGroup,
    tasks: list[Task],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "rollouts"
    killer = kill_once(actor, lambda: rollout_store.shards(folder))
    with holding(tmp_path, 3600) as lease:
        roll_out(units(tasks, range(12)), folder, runners, CLUSTER, lambda *_: None, lease)
    killer.join()
    assert outcomes(folder) == undisturbed
    collectors = {"EnvRunner": 1, "Collector": 2}[actor]
    assert len(set(map(rollout_store.epoch_of, rollout_store.shards(folder)))) == collectors


def test_a_superseded_driver_stops_and_no_unit_is_blamed(
    undisturbed: list[tuple[str, bool, int]],
    runners: RunnerGroup,
    tasks: list[Task],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "rollouts"
    with holding(tmp_path, 3600) as lease:

        def supersede(*_: object) -> None:
            fences.take(tmp_path, 3, {"host": "node7", "pid": 7, "since": "today"})

        with pytest.raises(
            Superseded, match=r"host node7, process 7, since today\) has taken over"
        ):
            roll_out(units(tasks, range(12)), folder, runners, CLUSTER, supersede, lease)
    roll_out(units(tasks, range(12)), folder, runners, CLUSTER, lambda *_: None)
    assert outcomes(folder) == undisturbed


def test_who_dies_between_two_stages_is_replaced(
    undisturbed: list[tuple[str, bool, int]],
    runners: RunnerGroup,
    tasks: list[Task],
    tmp_path: Path,
) -> None:
    dead = [process_of("EnvRunner"), process_of("Collector")]
    for process in dead:
        process.kill()
    psutil.wait_procs(dead, timeout=20)
    runners.deploy(Deployment(None, None))
    roll_out(units(tasks, range(12)), tmp_path, runners, CLUSTER, lambda *_: None)
    assert outcomes(tmp_path) == undisturbed


def test_what_a_runner_refuses_ends_the_stage_at_once(
    ray_session: None, tasks: list[Task], tmp_path: Path
) -> None:
    misspelt = replace(SETUP, perturb=PerturbConfig(rates={"typo": 0.5}))
    runners = RunnerGroup(misspelt, None, None, ONE)
    with pytest.raises(UsageError, match=r"^perturb\.rates: unknown operator typo"):
        roll_out(units(tasks, range(12)), tmp_path, runners, CLUSTER, lambda *_: None)
    runners.stop()


def test_runners_that_cannot_start_end_the_stage_and_no_unit_is_blamed(
    ray_session: None, tasks: list[Task], tmp_path: Path
) -> None:
    runners = RunnerGroup(replace(SETUP, slm=None), None, None, ONE)  # type: ignore[arg-type]
    with pytest.raises(
        RuntimeFailure, match=r"^env runners do not start \(2 tries\): AttributeError: "
    ):
        roll_out(units(tasks, range(12)), tmp_path, runners, CLUSTER, lambda *_: None)
    runners.stop()


def gone(name: str) -> Unit:
    """A unit whose game is not there."""
    task = Task(name, "test", "r2v/TextWorld-v0", (("game", f"/nowhere/{name}.z8"),))
    return Unit("evaluate", "h", task, 0, 0, (Arm("teacher_only", None, "p", "expert", 0),))


def test_where_nothing_shows_that_the_node_works_the_stage_stops_with_the_first_cause(
    runners: RunnerGroup, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeFailure, match=r"^1 units? .*\(gone z=0\).*gone\.z8 does not exist"):
        roll_out([gone("gone")], tmp_path, runners, CLUSTER, lambda *_: None)
    assert ray.is_initialized()
    assert not rollout_store.committed_keys(tmp_path)


def test_a_row_never_names_a_policy_that_did_not_act(
    runners: RunnerGroup, tasks: list[Task], tmp_path: Path
) -> None:
    arm = Arm("slm_only", None, "another-policy", "expert", 0)
    cluster = CLUSTER.model_copy(update={"max_restarts": 0})
    with pytest.raises(
        RuntimeFailure, match=r"answered as version simulated-0\.4, this unit needs another-policy"
    ):
        roll_out(
            [Unit("evaluate", "h", tasks[0], 0, 0, (arm,))],
            tmp_path,
            runners,
            cluster,
            lambda *_: None,
        )
    assert not rollout_store.committed_keys(tmp_path)


def test_a_disk_that_refuses_is_named_and_no_unit_is_blamed(
    runners: RunnerGroup, tasks: list[Task]
) -> None:
    with pytest.raises(
        RuntimeFailure, match=r"^episodes cannot be written to /proc/r2v/rollouts: .*/proc/r2v"
    ) as failure:
        roll_out(
            units(tasks, range(1)), Path("/proc/r2v/rollouts"), runners, CLUSTER, lambda *_: None
        )
    assert "unit" not in str(failure.value)


@pytest.mark.slow
def test_a_runner_that_does_not_start_is_left_out_until_the_next_stage(
    ray_session: None, tasks: list[Task], tmp_path: Path
) -> None:
    class LateRunner(EnvRunnerActor):
        """The first of them takes longer to start than it may."""

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            try:
                (tmp_path / "first").touch(exist_ok=False)
            except FileExistsError:
                return
            time.sleep(600)

    impatient = CLUSTER.model_copy(update={"runner_start_deadline_s": 15.0})
    runners = RunnerGroup(SETUP, None, None, impatient, runner=LateRunner)
    try:
        late_at = time.monotonic() + 60
        while len(runners.members) == 2 and time.monotonic() < late_at:
            for runner in list(runners.members):
                runners.where(runner)
            time.sleep(0.1)
        [member] = runners.members
        assert runners.where(member) is not None
        totals = roll_out(units(tasks, range(2)), tmp_path, runners, impatient, lambda *_: None)
        assert (totals.units, len(runners.members)) == (8, 2)
    finally:
        runners.stop()
