"""Terminal tasks through Gymnasium's own door: checked, solvable, and judged only at the end."""

from collections.abc import Iterator
from typing import Any

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env

import envs.make  # noqa: F401 -- registers
from envs.make import make as make_env
from envs.make import perturbed
from envs.tasks import make_tasks
from envs.terminal_bench.env import TerminalBenchEnv
from envs.terminal_bench.own.catalogue import FAMILIES, missing_programs, task_name
from envs.terminal_bench.places import task_for
from r2v_dist.config.env import EnvConfig, SplitSizes
from r2v_dist.config.perturbation import PerturbConfig
from r2v_dist.episodes import Task
from tests.sandboxes import require_bubblewrap

NAME = "r2v/TerminalBench-v0"
ONE = "tidy-modes@5"
SHORT = '{"command_s": 2.0, "observation_chars": 400}'


@pytest.fixture(autouse=True)
def _contained() -> None:
    require_bubblewrap()


def make(task: str = ONE, **kwargs: Any) -> TerminalBenchEnv:
    env = gymnasium.make(NAME, task=task, **kwargs).unwrapped
    assert isinstance(env, TerminalBenchEnv)
    return env


@pytest.fixture
def env() -> Iterator[TerminalBenchEnv]:
    made = make(expert=True, terminal=SHORT)
    made.reset()
    yield made
    made.close()


def said(env: TerminalBenchEnv, action: str) -> str:
    return env.step(action)[0]


def play(env: TerminalBenchEnv, actions: tuple[str, ...]) -> tuple[float, list[str]]:
    env.reset()
    seen = []
    for action in actions:
        observation, reward, terminated, _, _ = env.step(action)
        seen.append(observation)
        assert not terminated
    _, reward, terminated, _, info = env.step("submit")
    assert terminated
    assert info["stop_reason"] == ("won" if reward else "lost")
    return reward, seen


def test_passes_gymnasiums_checker() -> None:
    env = gymnasium.make(NAME, task=ONE).unwrapped
    check_env(env, skip_render_check=True)
    env.close()


SAMPLE = ("make-executable", "first-bad-commit", "migrate-table", "repair-build", "serve-folder")


def check_family(name: str, seed: int) -> None:
    """Oracle passes, nothing and the wrong solution fail."""
    for program, families in missing_programs().items():
        if name in families:
            pytest.skip(f"{program} is not in /usr")
    place = task_name(FAMILIES[name], seed)
    env = make(place, expert=True, max_steps=60)
    task = task_for(place)
    try:
        reward, seen = play(env, task.oracle)
        assert reward == 1.0, (place, seen)
        assert play(env, ())[0] == 0.0, place
        assert play(env, task.wrong)[0] == 0.0, place
    finally:
        env.close()


@pytest.mark.parametrize("name", SAMPLE)
def test_the_oracle_passes_and_nothing_and_the_wrong_solution_fail(name: str) -> None:
    check_family(name, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_family_holds_in_twenty_instances(name: str) -> None:
    for seed in range(20):
        check_family(name, seed)


def test_the_shell_stays_as_it_was_left(env: TerminalBenchEnv) -> None:
    assert said(env, "cd /tmp; x=5; f() { echo got $x; }; false") == "[exit 1; /tmp]"
    assert said(env, "echo $?; f") == "1\ngot 5\n[exit 0; /tmp]"
    assert said(env, "cat <<'END'\na\n\nb\nEND") == "a\n\nb\n[exit 0; /tmp]"
    assert "syntax error" in said(env, "if")
    assert said(env, "exit 4") == "[exit 4, which ended the shell; this is a new one; /tmp]"
    assert said(env, "echo $x") == "[exit 0; /tmp]"


def test_a_command_is_stopped_at_its_deadline_and_jobs_run_on(env: TerminalBenchEnv) -> None:
    said(env, "(sleep 3; echo late > /app/late) &")
    assert said(env, "sleep 30; echo no").startswith("[stopped after 2 s; /app")
    assert said(env, "sleep 0.3; echo yes").startswith("yes\n[exit 0; /app")
    waited = (said(env, "sleep 0.3; cat /app/late") for _ in range(40))
    assert any(shown.startswith("late\n") for shown in waited)


def test_a_program_that_waits_is_told_and_gets_the_next_line(env: TerminalBenchEnv) -> None:
    asked = said(env, "read -p 'name? ' name; echo hello $name")
    assert asked == "name? \n[a program waits for input; /app]"
    assert said(env, "ada") == "hello ada\n[exit 0; /app]"
    assert said(env, "cat > /app/typed") == "[a program waits for input; /app; 1 file changed]"
    assert "waits" in said(env, "some text")
    assert said(env, "keys C-d").endswith("[exit 0; /app]")
    assert said(env, "cat /app/typed") == "some text\n[exit 0; /app]"


def test_a_full_screen_program_is_seen_as_it_is_laid_out(env: TerminalBenchEnv) -> None:
    program = (
        "import curses\n"
        "def main(screen):\n"
        "    screen.addstr(2, 10, 'two down'); screen.addstr(1, 0, 'one down'); screen.refresh()\n"
        "    key = screen.getkey(); screen.addstr(3, 0, 'got ' + key); screen.refresh(); "
        "screen.getkey()\n"
        "curses.wrapper(main)"
    )
    said(env, f"cat > /tmp/program.py <<'END'\n{program}\nEND")
    shown = said(env, "python3 /tmp/program.py; echo done")
    assert shown == "one down\n          two down\n[a program waits for input; /app]"
    assert "\ngot x\n" in said(env, "keys x")
    assert said(env, "keys q").endswith("done\n[exit 0; /app]")


def test_long_output_loses_its_middle_and_control_codes(env: TerminalBenchEnv) -> None:
    seen = said(env, "seq 100000; printf '\\033[31mend\\033[0m\\n'")
    assert seen.startswith("1\n2\n")
    assert seen.endswith("100000\nend\n[exit 0; /app]")
    assert "left out" in seen
    assert len(seen) < 600


def test_the_tests_are_not_there_before_the_agent_has_ended(env: TerminalBenchEnv) -> None:
    found = said(
        env,
        "ls -d /tests /solution /logs/verifier; find / -name 'check*.py' -path '*tests*' "
        "2>/dev/null",
    )
    assert found.count("No such file or directory") == 3
    assert "check.py" not in found


def test_tampering_with_the_tests_fails(env: TerminalBenchEnv) -> None:
    place = "serve-folder@1"  # its processes run on while it is judged
    env = make(place, expert=True, max_steps=60)
    oracle = task_for(place).oracle
    touch = (
        "(while true; do echo 1 > /logs/verifier/reward.txt; [ -e /tests/check.py ] && "
        "echo > /tests/check.py; done) > /dev/null 2>&1 &"
    )
    try:
        assert play(env, (touch,))[0] == 0.0
        assert play(env, (*oracle, touch))[0] == 0.0
    finally:
        env.close()


def test_answers_that_mean_nothing_cost_a_step(env: TerminalBenchEnv) -> None:
    for answer in ("", "keys C-Nothing", "x" * 20_000, "\ud800"):
        observation, reward, terminated, truncated, _ = env.step(answer)
        assert (reward, terminated, truncated) == (0.0, False, False)
        assert observation
    assert said(env, "pwd") == "/app\n[exit 0; /app]"


def test_episodes_are_strangers(env: TerminalBenchEnv) -> None:
    other = make()
    other.reset()
    said(
        env,
        "echo mine > /tmp/mine; echo mine > /dev/shm/mine; python3 -m http.server 8077 > "
        "/dev/null 2>&1 &",
    )
    connect = 'import socket; socket.create_connection(("127.0.0.1", 8077))'
    look = f"ls /tmp/mine /dev/shm/mine; sleep 0.5; python3 -c '{connect}' 2>&1 | tail -n 1"
    seen = said(other, look)
    assert seen.count("No such file or directory") == 2
    assert "Connection refused" in seen
    other.close()


def test_faults_do_not_act_and_the_expert_is_not_fooled() -> None:
    config = EnvConfig(kind="terminal_bench", max_steps=60, splits=SplitSizes(train=2, test=1))
    tasks = make_tasks(config, 0, 1, lambda done, total: None)
    assert [task.split for task in tasks] == ["train", "train", "test"]
    assert len({task.id for task in tasks}) == 3
    won = 0
    faults = 0
    for z in range(3):
        env = make_env(tasks[0], expert=True)
        world = perturbed(env, tasks[0], z, PerturbConfig())
        world.reset()
        over = False
        while not over:
            action = world.expert_action()
            assert action is not None
            _, reward, terminated, truncated, info = world.step(action)
            faults += not info["executed"]
            over = terminated or truncated
        won += reward > 0
        env.close()
    assert won == 3
    assert faults


def test_the_expert_comes_back_from_where_others_went(env: TerminalBenchEnv) -> None:
    assert said(env, "cd /tmp && cat").startswith("[a program waits for input")
    assert env.expert_action() == "keys C-c"
    said(env, "keys C-c")
    assert env.expert_action() == "cd /app"
    while (action := env.expert_action()) != "submit":
        env.step(action)
    assert env.step("submit")[1] == 1.0


def test_mistakes_are_wrong_and_depend_on_the_seed_alone(env: TerminalBenchEnv) -> None:
    right = env.expert_action()
    made = [env.wrong_action(seed) for seed in range(40)]
    assert right not in made
    assert None not in made
    assert made == [env.wrong_action(seed) for seed in range(40)]
    assert len(set(made)) > 4
    assert "submit" in made


def test_a_task_of_a_users_directory_is_the_test_split(tmp_path: Any) -> None:
    from tests.unit.envs.test_terminal_texts import V1, write

    write(tmp_path / "mine", V1)
    config = EnvConfig.model_validate(
        {
            "kind": "terminal_bench",
            "terminal": {"tasks": str(tmp_path)},
            "splits": {"train": 1, "test": 1},
        }
    )
    tasks = make_tasks(config, 0, 1, lambda done, total: None)
    theirs: Task = tasks[1]
    assert (theirs.id, theirs.split) == ("mine", "test")
    env = make_env(theirs, expert=True)
    env.reset()
    assert "No such file" in env.step("cat /solution/solve.sh")[0]
    env.reset()
    env.step(env.expert_action())  # type: ignore[attr-defined]
    assert "No such file" in env.step("cat /solution/solve.sh")[0]
    assert env.step("submit")[1] == 1.0
    env.reset()
    assert env.step("submit")[1] == 0.0
    env.close()
