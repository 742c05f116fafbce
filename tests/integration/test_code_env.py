"""The coding environment through Gymnasium's own door: checked, deterministic, solvable, silent
about the verdict, perturbable.
"""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env

from actors.env_runner import EnvRunner, RunnerSetup
from actors.language_models.expert import ExpertModel
from actors.language_models.simulated import SimulatedModel
from actors.totals import Totals
from envs.coding.actions import parse_action
from envs.coding.env import MANUAL, CodeEnv, shorten
from envs.coding.lexicon import LEXICON
from envs.coding.tasks import load_task, task_ids
from envs.perturbation.operators import StackTraceCut
from envs.perturbation.wrapper import Perturb, default_rates
from envs.tasks import make_tasks
from r2v_dist.agent.episode import ModelRole, Models, play
from r2v_dist.agent.tree import Tree, TreeEnv
from r2v_dist.config.env import CodeConfig, EnvConfig, SplitSizes
from r2v_dist.config.models import ModelConfig
from r2v_dist.config.perturbation import PerturbConfig
from r2v_dist.episodes import Arm, Episode, StopReason, Task, Unit
from r2v_dist.errors import UsageError
from r2v_dist.language_model import Sampling
from tests.codes import require_data
from tests.sandboxes import require_bubblewrap

NAMES = ["r2v/HumanEvalPlus-v0", "r2v/MBPPPlus-v0"]
SHIPPED = task_ids("shipped")


@pytest.fixture(autouse=True)
def _contained() -> None:
    require_bubblewrap()


def make(task: str = "R2V/1", **kwargs: Any) -> CodeEnv:
    env = gymnasium.make(NAMES[0], task=task, **kwargs).unwrapped
    assert isinstance(env, CodeEnv)
    return env


@pytest.fixture
def env() -> Iterator[CodeEnv]:
    made = make(expert=True, max_steps=20)
    made.reset()
    yield made
    made.close()


@pytest.mark.parametrize("name", NAMES)
def test_passes_gymnasiums_checker(name: str) -> None:
    check_env(gymnasium.make(name, task="R2V/0").unwrapped, skip_render_check=True)


@pytest.mark.parametrize("task", SHIPPED)
def test_the_expert_wins_and_an_agent_that_submits_nothing_loses(task: str) -> None:
    env = make(task, expert=True)
    _, info = env.reset()
    assert info == {"goal": load_task("shipped", task).prompt.strip()}
    rewards, done = [], False
    while not done:
        observation, reward, done, truncated, info = env.step(str(env.expert_action()))
        assert not truncated
        rewards.append(reward)
    assert (rewards, info["stop_reason"], observation) == ([0.0, 1.0], "won", "Submitted.")
    env.reset()
    observation, reward, terminated, _, info = env.step("submit")
    assert (reward, terminated, info["stop_reason"], observation) == (
        0.0,
        True,
        "lost",
        "Submitted.",
    )


def test_a_wrong_action_leads_to_a_loss(env: CodeEnv) -> None:
    write = str(env.wrong_action(3))
    assert write.startswith("write\n")
    env.step(write)
    assert {env.wrong_action(seed) for seed in range(20)} == {"test", "submit"}
    assert str(env.expert_action()).startswith(
        "write\n"
    )  # it does not submit what it did not write
    env.step("test")
    assert {env.wrong_action(seed) for seed in range(20)} == {"submit"}
    _, reward, terminated, _, info = env.step("submit")
    assert (reward, terminated, info["stop_reason"]) == (0.0, True, "lost")


def test_visible_tests_show_what_was_expected_and_where_it_broke(env: CodeEnv) -> None:
    assert env.step("test")[0].startswith("Error: there is no solution yet")
    env.step("write\ndef merge_intervals(intervals):\n    return intervals")
    seen = env.step("test")[0]
    assert (
        "FAILED merge_intervals([[1, 3], [2, 5], [8, 9]])\n  expected [[1, 5], [8, 9]]\n  got     "
        " [[1, 3], [2, 5], [8, 9]]" in seen
    )
    assert seen.endswith("0 of 2 visible tests pass.")
    env.step("write\ndef merge_intervals(intervals):\n    return intervals[99]")
    seen = env.step("test")[0]
    assert 'File "solution.py", line 2, in merge_intervals\n    return intervals[99]' in seen
    assert "IndexError: list index out of range" in seen
    assert StackTraceCut().apply(seen, None, None) is not None  # type: ignore[arg-type]
    env.step("write\ndef merge_intervals(intervals:")
    assert "SyntaxError" in env.step("test")[0]
    env.step(str(env.expert_action()))
    assert env.step("test")[0].endswith("2 of 2 visible tests pass.")


def test_snippets_know_the_solution_and_cannot_hurt(env: CodeEnv) -> None:
    env.step(str(env.expert_action()))
    assert (
        env.step("run\n```python\nprint(merge_intervals([[1, 2], [2, 4]]))\n```")[0] == "[[1, 4]]"
    )
    assert env.step("run\nx = 1")[0] == "It ran and printed nothing."
    assert "NameError: name 'absent' is not defined" in env.step("run\nabsent")[0]
    assert (
        env.step("run\nif __name__ == '__main__':\n    print('as a program')")[0] == "as a program"
    )
    assert env.step("run\nfrom solution import merge_intervals as m\nprint(m([]))")[0] == "[]"
    assert (
        "Error: stopped, it took too long."
        in env.step("run\nprint('begin', flush=True)\nwhile True: pass")[0]
    )
    assert "Error: stopped, it printed too much." in env.step("run\nwhile True: print('flood')")[0]
    seen = env.step("run\nimport os\nprint(os.listdir('/'))\nopen('/etc/r2v-was-here', 'w')")[0]
    assert "Read-only file system" in seen or "No such file" in seen
    seen = env.step("run\nfor i in range(9999): print(i)\nraise ValueError('the end')")[0]
    assert len(seen) < 2200
    assert seen.startswith("0\n1\n2\n")
    assert seen.endswith("ValueError: the end")


@pytest.mark.parametrize(
    "action",
    [
        "",
        "   ",
        "hello",
        "é" * 20_000,
        "submitted",
        "```",
        "write",
        "run",
        "write:\n",
        "\x00\ud800",
    ],
)
def test_nonsense_is_answered_and_costs_a_step(env: CodeEnv, action: str) -> None:
    observation, reward, terminated, truncated, _ = env.step(action)
    assert observation.startswith("Error: ")
    assert (reward, terminated, truncated) == (0.0, False, False)


BEFORE = {
    "dataclasses": (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass P:\n    x: int\n"
    ),
    "half a pair": "HALF = '\ud83d'\n",
    "line ends that are none": "ENDS = 'a\u2028b\x0cc\x85d\x1ce'\n",
    "a form feed between functions": "import math\n\x0c\n",
    "its own name": "assert __name__ == 'solution'\n",
    "its own module": (
        "import solution, sys\nassert sys.modules['solution'].__dict__ is globals()\n"
    ),
    "a byte order mark": "\ufeff",
    "a closed output": "import sys\nsys.stdout.close()\n",
    "what is run only as a program": "if __name__ == '__main__':\n    raise SystemExit(3)\n",
    "a thread that goes on": (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()\n"
    ),
    "another encoding": "# -*- coding: latin-1 -*-\nN = '\u00e9'\nassert len(N) == 1\n",
}


@pytest.mark.parametrize("name", BEFORE)
def test_what_test_passes_submit_passes(env: CodeEnv, name: str) -> None:
    env.step(f"write\n{BEFORE[name]}{load_task('shipped', 'R2V/1').code}")
    assert env.step("test")[0].endswith("2 of 2 visible tests pass.")
    assert env.step("submit")[1] == 1.0


NOT_BEFORE = {
    "no file of the solution": "open('solution.py')\n",
    "an end": "import sys\nsys.exit(0)\n",
    "a null character": "X = '\x00'\n",
    "no module": "import numpy\n",
}


@pytest.mark.parametrize("name", NOT_BEFORE)
def test_what_test_fails_submit_fails(env: CodeEnv, name: str) -> None:
    env.step(f"write\n{NOT_BEFORE[name]}{load_task('shipped', 'R2V/1').code}")
    assert "visible tests pass" not in env.step("test")[0]
    assert env.step("submit")[1] == 0.0


def test_an_answer_that_is_too_long_is_told_and_not_cut(env: CodeEnv) -> None:
    code = load_task("shipped", "R2V/1").code
    seen = env.step(f"write\n{code}\n# {'x' * 20_000}")[0]
    assert seen == (
        f"Error: an answer may have 16384 characters; this one has {len(code) + 20_009}, "
        "and nothing was done."
    )
    assert env.step("test")[0].startswith("Error: there is no solution yet")


def test_a_number_that_lies_ends_the_episode_as_any_wrong_answer(env: CodeEnv) -> None:
    lying = (
        "class Lying(complex):\n    real = 10 ** 400\n"
        "def merge_intervals(intervals): return Lying(1, 0)"
    )
    env.step(f"write\n{lying}")
    _, reward, terminated, _, info = env.step("submit")
    assert (reward, terminated, info["stop_reason"]) == (0.0, True, "lost")


@pytest.mark.parametrize(
    ("action", "parsed"),
    [
        ("submit", ("submit", "")),
        (" Submit\n", ("submit", "")),
        ("write\nx = 1", ("write", "x = 1")),
        ("WRITE:\n```python\nx = 1\n```", ("write", "x = 1")),
        ("write\n```\nx = 1\n\ny = 2\n```\n", ("write", "x = 1\n\ny = 2")),
        ("write x = 1", ("write", "x = 1")),
        ("```\nwrite\nx = 1", ("write", "x = 1")),
        ("run\n    print(1)", ("run", "    print(1)")),
        ("I would write", ("I", "")),
        ("", ("", "")),
    ],
)
def test_actions_are_read_generously(action: str, parsed: tuple[str, str]) -> None:
    assert parse_action(action) == parsed


def test_long_output_keeps_both_ends() -> None:
    text = "".join(f"{i:04}" for i in range(1000))
    short = shorten(text, 400)
    assert short.startswith(text[:160])
    assert short.endswith(text[-240:])
    assert "3600 characters left out" in short
    assert shorten("short", 400) == "short"


def walk(z: int | None, task: str = "R2V/4") -> tuple[list[Any], int]:
    """Everything seen, and how many calls failed, when visible tests are run until the steps are
    used up.
    """
    env = Perturb(
        make(task, expert=True, max_steps=12),
        task,
        z,
        default_rates(),
        12,
        LEXICON,
    )
    env.reset()
    seen, failed = [], 0
    for action in (str(env.wrong_action(1)), *["test"] * 10, str(env.expert_action())):
        observation, _, _, _, info = env.step(action)
        seen.append((observation, info["clean_observation"], info["perturbations"]))
        failed += not info["executed"]
    return seen, failed


def test_episodes_are_a_function_of_the_actions_and_the_perturbation_seed() -> None:
    assert walk(7) == walk(7)
    assert walk(7) != walk(8)
    clean, failed = walk(None)
    assert failed == 0
    assert all(observation == true and names == [] for observation, true, names in clean)
    names = {
        name for z in range(12) for _, _, perturbations in walk(z)[0] for name in perturbations
    }
    assert names >= {
        "failure",
        "timeout",
        "truncation",
        "line_drop",
        "misleading_error",
        "wrong_fix",
        "decoy_error",
        "shuffled",
    }


def test_a_failed_call_does_not_act() -> None:
    env = Perturb(make(expert=True), "R2V/1", 1, {"failure": 1.0}, 8, LEXICON)
    while True:  # a seed at which the operator is at work
        env.reset()
        _, _, _, _, info = env.step("write\nx = 1")
        if not info["executed"]:
            break
        env = Perturb(
            make(expert=True),
            "R2V/1",
            (env._z or 0) + 1,
            {"failure": 1.0},
            8,
            LEXICON,
        )
    assert env.unwrapped._solution == ""  # type: ignore[attr-defined]


def test_wrong_settings_are_told() -> None:
    with pytest.raises(UsageError, match="R2V/77"):
        make("R2V/77")
    with pytest.raises(ValueError, match="expert=True"):
        make().expert_action()
    with pytest.raises(ValueError, match="expert=True"):
        make().wrong_action(0)


def episode(
    failure_rate: float, replica: int, router: str = "slm_only", auroc: float | None = None
) -> Episode:
    task = Task("R2V/1", "test", NAMES[0], ())
    env = Perturb(make("R2V/1", expert=True), task.id, None, {}, 8, LEXICON)
    arm = Arm(router, None, "simulated", "expert", 0)
    unit = Unit("evaluate", "hash", task, None, replica, (arm,))
    slm = ModelRole("slm", SimulatedModel(failure_rate, signal_auroc=auroc), Sampling())
    return asyncio.run(
        play(
            TreeEnv(env, Tree()),
            unit,
            arm,
            Models(slm, ModelRole("teacher", ExpertModel(), Sampling())),
        )
    )


def test_the_simulated_slm_wins_as_often_as_its_failure_rate_says() -> None:
    """From no solution: right w.p. 1-f; a wrong one is repaired w.p. 1-f, else submitted, at once
    or after a test that changes nothing.
    """
    f, episodes = 0.4, 300
    # success from a right solution (C), a wrong untested (W) and a wrong tested one (T), by value
    # iteration
    c = w = t = 0.0
    for _ in range(200):
        c, w, t = (1 - f) + f * w, (1 - f) * c + f / 2 * t, (1 - f) * c
    expected = (1 - f) * c + f * w
    played = [episode(f, replica) for replica in range(episodes)]
    won = sum(e.success for e in played) / episodes
    assert won == pytest.approx(
        expected, abs=3 * (expected * (1 - expected) / episodes) ** 0.5 + 0.01
    )
    assert {e.stop_reason for e in played} <= {
        StopReason.WON,
        StopReason.LOST,
        StopReason.STEP_LIMIT,
    }
    assert episode(1.0, 0).success is False
    assert episode(0.0, 0).success is True
    assert episode(1.0, 0, "teacher_only").success is True


def test_benchmark_tasks_play_like_the_shipped_ones() -> None:
    require_data()
    for task in ("HumanEval/32", "Mbpp/2"):
        env = make(task, expert=True)
        observation, info = env.reset()
        assert observation == MANUAL
        assert (
            info["goal"]
            in load_task("humaneval_plus" if task.startswith("H") else "mbpp_plus", task).prompt
        )
        env.step(str(env.expert_action()))
        assert env.step("test")[0].endswith("visible tests pass.")
        assert env.step("submit")[1] == 1.0


def test_a_runner_plays_all_arms_of_a_unit_without_drift() -> None:
    delivered = list[Episode]()

    async def deliver(episodes: Sequence[Episode]) -> None:
        delivered.extend(episodes)

    slm = ModelConfig(
        backend="simulated", failure_rate=0.3, failure_rate_perturbed=0.4, signal_auroc=0.9
    )
    setup = RunnerSetup(
        slm, ModelConfig(backend="expert"), "", "", PerturbConfig(), unit_timeout_s=120
    )
    arms = tuple(
        Arm(name, at, "simulated-0.3", "expert", 0)
        for name, at in (("slm_only", None), ("teacher_only", None), ("entropy", 0.5))
    )
    [task, *_] = make_tasks(
        EnvConfig(
            kind="humaneval_plus",
            code=CodeConfig(source="shipped"),
            splits=SplitSizes(train=1, test=1),
        ),
        0,
        1,
        lambda done, total: None,
    )

    async def run_all() -> list[Totals]:
        runner = EnvRunner(setup, None, None)
        return list(
            await asyncio.gather(
                *(
                    runner.run(Unit("evaluate", "hash", task, z, 0, arms), deliver)
                    for z in range(2000, 2006)
                )
            )
        )

    reports = asyncio.run(run_all())
    assert sum(report.drifted for report in reports) == 0
    assert len(delivered) == 18
    assert {e.success for e in delivered if e.arm.router == "teacher_only"} == {True}
    assert any(step.score for e in delivered if e.arm.router == "entropy" for step in e.steps)
    assert not any(e.stop_reason == StopReason.ENV_ERROR for e in delivered)


def test_episodes_go_on_while_one_waits_for_its_program() -> None:
    tree = Tree()
    world = TreeEnv(Perturb(make(), "R2V/1", None, {}, 8, LEXICON), tree)
    world.reset()

    async def turns_of_the_loop() -> tuple[int, str]:
        sleeping = asyncio.ensure_future(
            world.astep("run\nimport time\ntime.sleep(0.5)\nprint('awake')")
        )
        turns = 0
        while not sleeping.done():
            await asyncio.sleep(0.01)
            turns += 1
        return turns, (await sleeping).observation

    world.step("write\nx = 1")
    turns, observation = asyncio.run(turns_of_the_loop())
    assert (turns > 10, observation) == (True, "awake")
