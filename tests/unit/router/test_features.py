"""Features: a live step and its stored row agree, nothing hidden leaks in, and every feature means
what its name says.
"""

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r2v_dist.episodes import Arm, Episode, EpisodeKey, Step, StopReason
from r2v_dist.language_model import Answer, Candidate, TopTokens
from r2v_dist.router.baselines import entropy_of
from r2v_dist.router.features import FEATURE_NAMES, features, looks_like_an_error
from r2v_dist.router.step_batch import StepBatch
from r2v_dist.router.step_context import StepContext
from r2v_dist.storage import step_table
from r2v_dist.verifier.base import select_candidate

MAX_STEPS, BUDGET = 12, 3
ARM = Arm("random", 0.3, "p", "expert", 0)
HIDDEN = (
    "success",
    "z",
    "task",
    "stop_reason",
    "clean_observation",
    "perturbations",
    "split",
    "replica",
    "n_steps",
    "final_observation",
)
SEEN = ["key", "t", "goal", "observation", "actor", "action", "prompt_tokens", "first_top_logprobs"]
SEEN += ["chosen_index", "candidate_texts", "candidate_ids", "candidate_logprobs"]

words = st.sampled_from(["go east", "take lamp", "open door", "wait", "take key"])
logprobs = st.floats(-8, 0, width=32)
candidates = st.builds(
    lambda text, tokens, known: Candidate(
        text, tuple(range(7, 7 + len(tokens))) if known else None, tuple(tokens) if known else ()
    ),
    words,
    st.lists(logprobs, min_size=1, max_size=4),
    st.booleans(),
)
answers = st.builds(
    lambda chosen, top, tokens: Answer(
        tuple(chosen), "p", tokens, TopTokens.of(enumerate(sorted(top, reverse=True)))
    ),
    st.lists(candidates, min_size=1, max_size=5),
    st.lists(st.floats(-9, -2.5, width=32), max_size=6),
    st.integers(1, 900),
)
observations = st.sampled_from(
    ["You are in the attic.", "Error: timed out.", "You can't see any such thing.", ""]
)


@st.composite
def scored_steps(draw: st.DrawFn) -> tuple[list[Step], list[list[float]]]:
    """An episode's steps and the verifier's scores of each; some have neither proposal
    nor scores.
    """
    steps, scores = [], []
    for t in range(draw(st.integers(1, 6))):
        by_teacher = draw(st.booleans())
        proposal = None if by_teacher and draw(st.booleans()) else draw(answers)
        width = len(proposal.candidates) if proposal else 0
        scores.append(
            draw(st.lists(st.floats(0, 1, width=32), min_size=width, max_size=width))
            if draw(st.booleans())
            else []
        )
        texts = [candidate.text for candidate in proposal.candidates] if proposal else []
        steps.append(
            Step(
                observation=draw(observations),
                clean_observation="hidden",
                perturbations=("failure",),
                actor="teacher" if by_teacher else "slm",
                action=draw(words),
                action_ids=None,
                executed=True,
                score=None,
                proposal=proposal,
                teacher_tokens=0,
                prefix=t,
                drift=False,
                verifier_scores=tuple(scores[-1]),
                chosen_index=select_candidate(texts, scores[-1]) if texts else None,
            )
        )
    return steps, scores


def episode(steps: list[Step], name: str = "task") -> Episode:
    key = EpisodeKey("labels", "hash", name, 1003, ARM.id, 0)
    return Episode(
        key,
        "train",
        ARM,
        f"Find the key of {name}, then leave.",
        tuple(steps),
        True,
        StopReason.WON,
        "done",
    )


def stored(played: list[tuple[list[Step], list[list[float]]]]) -> pa.Table:
    return step_table.to_table([episode(steps, f"task {i}") for i, (steps, _) in enumerate(played)])


def live(steps: list[Step], scores: list[list[float]], name: str, t: int) -> np.ndarray:
    before = steps[:t]
    context = StepContext(
        t=t,
        draw=("unused",),
        goal=f"Find the key of {name}, then leave.",
        observations=tuple(s.observation for s in steps[: t + 1]),
        actions=tuple(s.action for s in before),
        escalations=sum(s.actor == "teacher" for s in before),
        max_steps=MAX_STEPS,
        budget=BUDGET,
        verifier_scores=tuple(scores[t]),
        chosen_index=steps[t].chosen_index or 0,
        verifier_bests=tuple(max(one, default=math.nan) for one in scores[:t]),
    )
    row: np.ndarray = features(StepBatch.of_step(steps[t].proposal or Answer((), "p"), context))[0]
    return row


@given(st.lists(scored_steps(), min_size=1, max_size=3), st.randoms())
@settings(max_examples=40)
def test_a_live_step_and_its_stored_row_have_one_vector(
    played: list[tuple[list[Step], list[list[float]]]], rng: Any
) -> None:
    expected = [
        live(steps, scores, f"task {i}", t)
        for i, (steps, scores) in enumerate(played)
        for t in range(len(steps))
    ]
    order = list(range(len(expected)))
    rng.shuffle(order)
    rows = features(StepBatch.from_rows(stored(played).take(order), MAX_STEPS, BUDGET))
    assert rows.shape == (len(expected), len(FEATURE_NAMES))
    assert np.isfinite(rows).all()
    np.testing.assert_allclose(rows, np.array(expected)[order], rtol=1e-12, atol=1e-12)


@given(scored_steps())
@settings(max_examples=30)
def test_nothing_hidden_leaks_in(played: tuple[list[Step], list[list[float]]]) -> None:
    table = stored([played, played])
    expected = features(StepBatch.from_rows(table, MAX_STEPS, BUDGET))
    for name in HIDDEN:
        field = table.schema.field(name)
        other = {
            pa.types.is_boolean: False,
            pa.types.is_integer: 77,
            pa.types.is_list: ["masking", "timeout"],
        }
        value: Any = next(
            (v for matches, v in other.items() if matches(field.type)), "something else"
        )
        altered = table.set_column(
            table.schema.get_field_index(name),
            field,
            pa.array([value] * len(table)).cast(field.type),
        )
        assert not altered[name].equals(table[name])
        np.testing.assert_array_equal(
            features(StepBatch.from_rows(altered, MAX_STEPS, BUDGET)), expected, err_msg=name
        )
    # The names of episodes only group rows.
    renamed = table.set_column(
        0,
        table.schema.field("key"),
        pa.array([f"x{k}" for k in table["key"].to_pylist()]).dictionary_encode(),
    )
    np.testing.assert_array_equal(
        features(StepBatch.from_rows(renamed, MAX_STEPS, BUDGET)), expected
    )


def test_only_what_an_agent_sees_is_read() -> None:
    step = Step(
        "o",
        "c",
        (),
        "slm",
        "wait",
        None,
        True,
        None,
        Answer((Candidate("wait", (1,), (-0.5,)),), "p"),
        0,
        0,
        False,
        chosen_index=0,
    )
    table = step_table.to_table([episode([step, step])])
    assert not set(SEEN) & set(HIDDEN)
    np.testing.assert_array_equal(
        features(StepBatch.from_rows(table.select(SEEN))), features(StepBatch.from_rows(table))
    )


def test_every_feature_by_hand() -> None:
    answer = Answer(
        (
            Candidate("go east", (4, 5), (-0.5, -0.5)),
            Candidate("go west", (4, 6), (-1.0, -2.0)),
            Candidate("go east", (9, 5), (-2.0,)),
        ),
        "p",
        prompt_tokens=120,
        first_top=TopTokens.of([(4, math.log(0.5)), (9, math.log(0.25))]),
    )
    context = StepContext(
        t=4,
        draw=(),
        goal="Eat the apple, then sleep.",
        observations=("", "", "", "", "Error: the command failed."),
        actions=("look", "go east", "go east"),
        escalations=1,
        max_steps=16,
        budget=4,
        verifier_scores=(0.25, 0.5, 0.75),
        verifier_bests=(0.9, math.nan, 0.25, 0.5),
    )
    got = dict(
        zip(FEATURE_NAMES, features(StepBatch.of_step(answer, context))[0].tolist(), strict=True)
    )
    std = float(np.std([-1.0, -3.0, -2.0]))
    assert got == pytest.approx(
        {
            "first_token_entropy": 1.5 * math.log(2),
            "surprisal_best": math.log(1.0 + 1e-4),
            "logprob_mean": -2.0,
            "logprob_std": std,
            "logprobs_missing": 0.0,
            "action_surprisal": math.log(0.5 + 1e-4),
            "first_token_agreement": 2 / 3,
            "action_agreement": 2 / 3,
            "distinct_actions": 2.0,
            "verifier_best": 0.75,
            "verifier_mean": 0.5,
            "verifier_std": float(np.std([0.25, 0.5, 0.75])),
            "verifier_min": 0.25,
            "verifier_margin": 0.25,
            "verifier_slope": 0.25,
            "verifier_missing": 0.0,
            "t": 4.0,
            "t_share": 0.25,
            "context_tokens": 120.0,
            "goal_tokens": 7.0,
            "last_action_repeated": 1.0,
            "proposals_repeating": 2 / 3,
            "proposals_done": 2 / 3,
            "action_words": 2.0,
            "error_observed": 1.0,
            "escalations": 1.0,
            "budget_left": 0.75,
        },
        abs=1e-6,
    )


def test_an_api_model_without_logprobs_is_marked_and_finite() -> None:
    answer = Answer((Candidate("go east"), Candidate("go west"), Candidate("look")), "api")
    got = dict(
        zip(
            FEATURE_NAMES,
            features(StepBatch.of_step(answer, StepContext(0, ())))[0].tolist(),
            strict=True,
        )
    )
    assert (got["logprobs_missing"], got["verifier_missing"]) == (1.0, 1.0)
    assert got["first_token_agreement"] == pytest.approx(2 / 3)
    assert (got["surprisal_best"], got["verifier_slope"], got["t_share"], got["budget_left"]) == (
        0.0,
        0.0,
        0.0,
        1.0,
    )


@given(st.lists(logprobs, max_size=6))
def test_the_entropy_is_the_one_of_the_entropy_router(top: list[float]) -> None:
    if sum(math.exp(v) for v in top) > 1:
        return
    answer = Answer((Candidate("x"),), "p", first_top=TopTokens.of(enumerate(top)))
    column = FEATURE_NAMES.index("first_token_entropy")
    assert features(StepBatch.of_step(answer, StepContext(0, ())))[0, column] == pytest.approx(
        entropy_of(top), abs=1e-6
    )


def test_an_impossible_first_token_adds_no_entropy() -> None:
    answer = Answer(
        (Candidate("x"),), "p", first_top=TopTokens.of([(1, math.log(0.5)), (2, -math.inf)])
    )
    column = FEATURE_NAMES.index("first_token_entropy")
    assert features(StepBatch.of_step(answer, StepContext(0, ())))[0, column] == pytest.approx(
        math.log(2)
    )


def test_missing_history_is_refused() -> None:
    step = Step("o", "c", (), "slm", "wait", None, True, None, None, 0, 0, False)
    table = step_table.to_table([episode([step] * 3)])
    with pytest.raises(ValueError, match="earlier rows"):
        StepBatch.from_rows(table.slice(1))
    nothing = step_table.to_table([episode([])])
    assert features(StepBatch.from_rows(nothing)).shape == (1, len(FEATURE_NAMES))
    assert features(StepBatch.from_rows(table.slice(0, 0))).shape == (0, len(FEATURE_NAMES))


def test_errors_as_an_agent_reads_them() -> None:
    assert all(
        map(
            looks_like_an_error,
            [
                "Error: no",
                "Request timed out",
                "You can't go that way",
                "Traceback (most recent call last)",
            ],
        )
    )
    spoken = [
        "I cannot do that",
        "no such file",
        "Permission denied",
        "you don't understand",
        "it was not found",
        "request timeout",
        "it fails",
    ]
    assert all(map(looks_like_an_error, spoken))
    assert not any(
        map(
            looks_like_an_error,
            [
                "You open the door.",
                "A mirror hangs here.",
                "It is not here.",
                "Terrors of the deep.",
                "",
            ],
        )
    )
