"""Rules, judge, and the client of the trained verifier."""

import asyncio
from typing import Any

import pytest
from transformers import AutoTokenizer

from actors.verifier.client import TrainedVerifier
from envs.textworld.rules import TextWorldRules
from r2v_dist.chat import Turn
from r2v_dist.errors import RuntimeFailure
from r2v_dist.language_model import Answer, Candidate, Request
from r2v_dist.verifier.llm_judge import JudgeVerifier, read_scores

HISTORY = (Turn("Goal: open the chest4.\nYou see a chest4 and a C-key.", "open chest4"),)


def rate(user: str, *actions: str) -> tuple[float, ...]:
    return asyncio.run(
        TextWorldRules().score(HISTORY, user, [Candidate(action) for action in actions])
    )


def test_rules_prefer_a_known_command_on_things_that_were_named() -> None:
    good, unseen, nonsense, part = rate(
        "Taken.",
        "unlock chest4 with C-key",
        "unlock chest4 with D-key",
        "chest4 the unlock",
        "open chest",
    )
    assert good == 1.0
    assert 1.0 > unseen == 0.3 > nonsense
    assert part == 0.3  # part of a name is no name
    assert rate("Taken.", "take chest40") == (0.3,)


def test_rules_doubt_what_was_refused_a_moment_ago_but_not_what_never_reached_the_game() -> None:
    assert rate("The chest4 is locked.", "open chest4", "take C-key") == (0.2, 1.0)
    assert rate("Error: timed out, the command was not executed.", "open chest4") == (1.0,)
    assert rate("You open the chest4.", "open chest4") == (1.0,)


def test_every_command_of_the_expert_is_in_the_grammar(tasks: Any) -> None:
    from envs.textworld.env import TextWorldEnv

    for task in tasks:
        env = TextWorldEnv(**dict(task.env_kwargs), expert=True)
        observation, info = env.reset()
        history: tuple[Turn, ...] = ()
        user = f"Goal: {info['goal']}\n{observation}"
        while (action := env.expert_action()) is not None:
            assert asyncio.run(
                TextWorldRules().score(history, user, [Candidate(action), Candidate("gibberish")])
            ) == (1.0, 0.1)
            history = (*history, Turn(user, action))
            user, _, done, truncated, _ = env.step(action)
            if done or truncated:
                break
        assert history
        env.close()


class Judge:
    """Answers with the given texts, in turn."""

    def __init__(self, *texts: str) -> None:
        self.texts, self.requests = list(texts), list[Request]()

    async def sample(self, request: Request) -> Answer:
        self.requests.append(request)
        return Answer((Candidate(self.texts.pop(0)),), "judge")


def test_a_judge_is_asked_again_when_its_answer_cannot_be_read() -> None:
    model = Judge("I like the first.", 'Sure:\n```json\n{"scores": [0.9, 0]}\n```')
    judge = JudgeVerifier(model)
    scores = asyncio.run(
        judge.score(HISTORY, "The chest4 is locked.", [Candidate("take C-key"), Candidate("look")])
    )
    assert scores == (0.9, 0.0)
    assert (judge.retries, judge.malformed) == (1, 0)
    assert [request.sampling.temperature for request in model.requests] == [0.0, 0.7]
    prompt = model.requests[0].user
    assert "world: The chest4 is locked.\n" in prompt
    assert '1. "take C-key"\n2. "look"' in prompt
    assert '{"scores": [0.5, 0.5]}' in prompt


def test_a_judge_that_never_makes_sense_is_counted() -> None:
    judge = JudgeVerifier(Judge("no", '{"scores": [0.5]}', '{"scores": [2, 0]}'), attempts=3)
    assert asyncio.run(judge.score((), "x", [Candidate("a"), Candidate("b")])) == (0.5, 0.5)
    assert (judge.retries, judge.malformed) == (2, 1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[0.1]",
        '{"scores": 0.1}',
        '{"scores": [true]}',
        '{"scores": ["0.1"]}',
        '{"scores": [NaN]}',
        "{" * 99,
        '{"scores": [1' + "0" * 400 + "]}",
        "<think>" + '{"scores": [0.2]}',
    ],
)
def test_only_numbers_in_range_are_scores(text: str) -> None:
    assert read_scores(text, 1) is None
    assert read_scores('{"scores": [1]}', 1) == (1.0,)


@pytest.mark.parametrize(
    "text",
    [
        '<think>{a} or {"scores": [0.1]}?</think>\n{"scores": [0.7]}',
        'First {"scores": [0.1]}, no: {"scores": [0.7]} {done}',
        '{"why": "it {may}", "scores": [0.7]}',
    ],
)
def test_the_scores_are_those_of_the_last_object_behind_the_reasoning(text: str) -> None:
    assert read_scores(text, 1) == (0.7,)


def test_what_a_judge_counted_is_told_once_and_nothing_is_asked_about_nothing() -> None:
    judge = JudgeVerifier(Judge("no", "no", "no"), attempts=3)
    assert asyncio.run(judge.score((), "x", [])) == ()
    asyncio.run(judge.score((), "x", [Candidate("a")]))
    assert judge.take_counts() == {"judge_retries": 2, "judge_malformed": 1}
    assert judge.take_counts() == {"judge_retries": 0, "judge_malformed": 0}


def test_the_client_sends_what_piled_up_in_one_call(tiny_model: Any) -> None:
    calls = []

    async def call(states: list[tuple[list[int], list[list[int]]]]) -> list[tuple[float, ...]]:
        calls.append(states)
        return [tuple(float(len(answer)) for answer in answers) for _, answers in states]

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    verifier = TrainedVerifier([call], tokenizer, "", 5.0)

    async def together() -> list[tuple[float, ...]]:
        first = verifier.score(
            HISTORY, "Taken.", [Candidate("look", (5, 6)), Candidate("go east", (7, 8, 9))]
        )
        return list(
            await asyncio.gather(first, verifier.score((), "Hall.", [Candidate("look", (5, 6))]))
        )

    assert asyncio.run(together()) == [(3.0, 4.0), (3.0,)]
    [states] = calls
    assert [answers for _, answers in states] == [
        [[5, 6, tokenizer.eos_token_id], [7, 8, 9, tokenizer.eos_token_id]],
        [[5, 6, tokenizer.eos_token_id]],
    ]


def test_a_dead_verifier_is_a_runtime_failure(tiny_model: Any) -> None:
    async def call(states: Any) -> Any:
        raise ConnectionError("gone")

    verifier = TrainedVerifier([call], AutoTokenizer.from_pretrained(tiny_model), "", 5.0)
    with pytest.raises(RuntimeFailure, match="the verifier did not answer: ConnectionError: gone"):
        asyncio.run(verifier.score((), "Hall.", [Candidate("look", (5,))]))
