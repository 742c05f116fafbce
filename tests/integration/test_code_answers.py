"""The coding environment where every answer is a solution, and the verifier that tries answers on
the examples.
"""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from gymnasium.utils.env_checker import check_env

from envs.coding.code_sandbox import CodeSandbox
from envs.coding.env import CodeEnv
from envs.coding.lexicon import LEXICON
from envs.coding.rules import CodeRules, examples
from envs.coding.statement import stated
from envs.coding.tasks import load_task, task_ids
from envs.perturbation.wrapper import Perturb
from envs.sandbox import Completed
from r2v_dist.chat import Turn, opening_message
from r2v_dist.config.sandbox import SandboxConfig
from r2v_dist.language_model import Candidate
from tests.codes import require_data
from tests.sandboxes import require_bubblewrap

TASK = "R2V/2"
NAME = "letter_counts"
RIGHT = load_task("shipped", TASK).code
HALF = f"def {NAME}(text):\n    return {{'a': 2, 'b': 2}}"
WRONG = f"def {NAME}(text):\n    return None"
BROKEN = f"import absent\n\ndef {NAME}(text):\n    return absent.counts(text)"


@pytest.fixture(autouse=True)
def _contained() -> None:
    require_bubblewrap()


def make(max_steps: int = 3, expert: bool = False) -> CodeEnv:
    return CodeEnv(TASK, max_steps=max_steps, protocol="answers", expert=expert)


@pytest.fixture
def env() -> Iterator[CodeEnv]:
    made = make()
    made.reset()
    yield made
    made.close()


def answer(program: str) -> str:
    return f"Sure!\n```python\n{program}\n```\nThat is all."


def test_passes_gymnasiums_checker() -> None:
    check_env(make(), skip_render_check=True)


def test_the_expert_wins_with_one_answer() -> None:
    env = make(expert=True)
    env.reset()
    _, reward, terminated, truncated, info = env.step(str(env.expert_action()))
    assert (reward, terminated, truncated, info["stop_reason"]) == (1.0, True, False, "won")


def test_a_solution_that_fails_is_told_of_its_examples_and_can_be_repaired(env: CodeEnv) -> None:
    told, reward, terminated, truncated, _ = env.step(answer(HALF))
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert "1 of 2 visible tests pass." in told
    assert "expected {}" in told
    assert env.step(answer(RIGHT))[1:3] == (1.0, True)


def test_the_best_solution_counts_when_the_steps_are_used_up(env: CodeEnv) -> None:
    env.step(answer(WRONG))
    env.step("I do not know.")
    _, reward, terminated, truncated, info = env.step(answer(HALF))
    assert (reward, terminated, truncated, info["stop_reason"]) == (0.0, False, True, "lost")
    assert env.reset()[1].get("stop_reason") is None
    for _ in range(3):
        *_, info = env.step("I do not know.")
    assert info["stop_reason"] == "step_limit"


def test_what_passes_more_examples_stays(env: CodeEnv) -> None:
    env.step(answer(HALF))
    env.step(answer(WRONG))
    told, *_ = env.step("test")
    assert "1 of 2 visible tests pass." in told


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("I do not know.", f"no Python program in it that defines {NAME}"),
        ("```python\ndef other():\n    pass\n```", f"defines {NAME}"),
        (f"```python\ndef {NAME}(text):\n    return (", "cut off"),
        (answer(BROKEN), "No module named 'absent'"),
        ("run\nprint(1 + 1)", "2"),
    ],
)
def test_the_agent_is_told_what_is_wrong(env: CodeEnv, said: str, told: str) -> None:
    observation, reward, terminated, *_ = env.step(said)
    assert told in observation
    assert (reward, terminated) == (0.0, False)


def test_what_a_solution_says_on_standard_error_is_no_verdict(env: CodeEnv) -> None:
    talkative = RIGHT.replace("\n", "\n    import sys; print('checked', file=sys.stderr)\n", 1)
    assert env.step(answer(talkative))[1:3] == (1.0, True)


def test_submit_hands_in_what_there_is(env: CodeEnv) -> None:
    env.step(answer(HALF))
    _, reward, terminated, _, info = env.step("submit")
    assert (reward, terminated, info["stop_reason"]) == (0.0, True, "lost")


def test_a_fault_at_the_last_step_does_not_lose_the_solution() -> None:
    env = Perturb(make(2), TASK, None, {}, 2, LEXICON)
    env.reset()
    env.step(answer(HALF))
    env._rates = {"failure": 1.0}
    told, reward, terminated, truncated, info = env.step(answer(RIGHT))
    assert told.endswith(
        "Answer again, with the whole program in one Markdown code block and nothing else."
    )
    assert (terminated, truncated, info["executed"]) == (False, True, False)
    assert (reward, info["stop_reason"]) == (0.0, "lost")


def scores(history: tuple[Turn, ...], user: str, *texts: str) -> tuple[float, ...]:
    candidates = [Candidate(text) for text in texts]
    return asyncio.run(CodeRules(SandboxConfig()).score(history, user, candidates))


def test_a_submission_is_worth_what_was_written() -> None:
    observation, info = CodeEnv(TASK, protocol="tools").reset()
    opening = opening_message(info["goal"], observation)
    written = [Turn(opening, f"write\n{program}", "slm") for program in (HALF, RIGHT)]
    tested = Turn("It is written.", "test", "slm")
    [half], [right] = (scores((turn, tested), "2 of 2", "submit") for turn in written)
    assert scores((), opening, answer(HALF), answer(RIGHT)) == (half, right)


@pytest.mark.parametrize("protocol", ["answers", "tools"])
def test_the_examples_order_candidates(protocol: str) -> None:
    observation, info = CodeEnv(TASK, protocol=protocol).reset()
    opening = opening_message(info["goal"], observation)
    none, broken, wrong, half, right = scores(
        (), opening, "?", answer(BROKEN), answer(WRONG), answer(HALF), answer(RIGHT)
    )
    assert 0 < none < broken < wrong < half < right < 1
    history = (Turn(opening, answer(HALF)),)
    assert scores(history, "1 of 2", "submit", answer(RIGHT)) == (half, right)


def test_what_the_verifier_has_tried_is_not_run_again(
    env: CodeEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    observation, info = env.reset()
    opening = opening_message(info["goal"], observation)
    sandbox = CodeSandbox.of("{}").sandbox
    programs: list[str] = []
    run = sandbox.run

    def counted(program: str, *arguments: Any, **settings: Any) -> Completed:
        programs.append(program)
        return run(program, *arguments, **settings)

    monkeypatch.setattr(sandbox, "run", counted)
    # Nobody has tried these before.
    tried = [answer(f"{HALF}  # tried once"), answer(f"{WRONG}  # tried once")]
    candidates = [Candidate(text) for text in (tried[0], tried[1], tried[0])]
    asyncio.run(CodeRules(SandboxConfig()).score((), opening, candidates))
    assert len(programs) == 2  # two of the three are equal
    told = env.step(tried[0])[0]
    assert "1 of 2 visible tests pass." in told
    assert len(programs) == 2


@pytest.mark.parametrize("dataset", ["humaneval_plus", "mbpp_plus"])
@pytest.mark.parametrize("protocol", ["answers", "tools"])
def test_the_verifier_finds_the_problem_in_the_conversation(dataset: str, protocol: str) -> None:
    require_data()
    for name in task_ids(dataset)[::5]:  # type: ignore[arg-type]
        task = load_task(dataset, name)  # type: ignore[arg-type]
        observation, info = CodeEnv(name, protocol=protocol).reset()
        found = examples(opening_message(info["goal"], observation))
        # As the environment tries an answer: what differs is tried twice.
        assert found == (stated(task.prompt).beginning, task.entry_point, task.visible)
