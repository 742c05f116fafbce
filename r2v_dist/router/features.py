"""Router features f_t (docs/method.md, section 5): what a deployed agent sees at a step, and
nothing else.

One function, `features`, serves training, evaluation and the gateway; a live step and a stored row
of it give the same vector. No reward, outcome, seed, task id, clean observation or operator is
read. Tensor axes: N steps, K candidates, V first-token alternatives, F features.
"""

import re

import numpy as np
import numpy.typing as npt

from r2v_dist.router.step_batch import ABSENT, StepBatch, word_count

Array = npt.NDArray[np.float64]

FEATURE_VERSION = "4"
FEATURE_NAMES: tuple[str, ...] = (
    "surprisal_best",
    "logprob_mean",
    "logprob_std",
    "logprobs_missing",
    "verifier_best",
    "verifier_mean",
    "verifier_std",
    "verifier_missing",
    "verifier_min",
    "verifier_margin",
    "verifier_slope",
    "first_token_entropy",
    "action_surprisal",
    "first_token_agreement",
    "action_agreement",
    "distinct_actions",
    "last_action_repeated",
    "proposals_repeating",
    "proposals_done",
    "action_words",
    "error_observed",
    "t",
    "t_share",
    "context_tokens",
    "goal_tokens",
    "escalations",
    "budget_left",
)
"""`surprisal_best` and `action_surprisal`: log(`_SURE` - log-probability) of the likeliest
candidate, and a token of the one to be executed: a scale on which 99.9 % and 97 % sure are far
apart. `proposals_repeating` and `proposals_done`: shares of candidates that repeat the last action,
or any earlier one of the episode; `action_words`: mean length of a candidate. `t_share` is 0
without a step limit, `budget_left` is 1 without a budget; groups with a `_missing` bit are 0 where
it is 1.
"""

_SURE = 1e-4
"""Surprise that is as good as none, in nats."""
_GROUP = 4
"""Features that log-probabilities and verifier scores have in common, in this order: best, mean,
std, missing.
"""
_STEMS = (
    "error",
    "exception",
    "traceback",
    "fail",
    "time",
    "denied",
    "invalid",
    "unable",
    "not ",
    "can't",
    "cannot",
    "don't",
    "no such",
)
"""One of them is in every text that `_ERROR` finds; looking for them first is ten times faster."""
_ERROR = re.compile(
    r"\berrors?\b|\bexception\b|\btraceback\b|\bfail(ed|s|ure)?\b|\btimed[ -]?out\b|\btimeout\b"
    r"|\bdenied\b|\binvalid\b|\bunable\b|\bnot (found|executed|recogni[sz]ed|understood|allowed)\b"
    r"|\bcan('|no)t\b|\bdon't understand\b|\bno such\b"
)


def features(batch: StepBatch) -> Array:
    """The feature vectors [N, F] of a batch, in the order of `FEATURE_NAMES`; always finite."""
    columns_FN = np.empty((len(FEATURE_NAMES), len(batch.t_N)))
    # Log-probabilities and verifier scores in one pass. Few numpy calls, because a live step pays
    # for each of them.
    scores_GNK = np.array((batch.sequence_logprobs_NK, batch.verifier_scores_NK))
    present_GNK = scores_GNK == scores_GNK
    count_GN = np.add.reduce(present_GNK, axis=2, dtype=np.float64)
    divisor_GN = np.maximum(count_GN, 1.0)
    mean_GN = np.add.reduce(np.where(present_GNK, scores_GNK, 0.0), axis=2) / divisor_GN
    deviation_GNK = np.where(present_GNK, scores_GNK - mean_GN[:, :, None], 0.0)
    descending_GNK = -np.sort(-scores_GNK, axis=2)
    by_group_GSN = columns_FN[: 2 * _GROUP].reshape(2, _GROUP, -1)
    by_group_GSN[:, 0] = descending_GNK[:, :, 0]
    by_group_GSN[:, 1] = mean_GN
    by_group_GSN[:, 2] = np.sqrt(np.add.reduce(deviation_GNK * deviation_GNK, axis=2) / divisor_GN)
    by_group_GSN[:, 3] = count_GN == 0
    best_N = descending_GNK[1, :, 0]
    columns_FN[8] = np.fmin.reduce(scores_GNK[1], axis=1)
    columns_FN[9] = best_N - descending_GNK[1, :, 1]
    columns_FN[10] = _slope(batch.verifier_earlier_N2, best_N)
    columns_FN[11] = _entropy(batch.first_top_logprobs_NV)
    columns_FN[12] = batch.action_logprobs_N
    columns_FN[13:21] = _read_texts(batch)
    columns_FN[21] = batch.t_N
    columns_FN[22] = batch.t_N / batch.max_steps_N
    columns_FN[23] = batch.context_tokens_N
    columns_FN[24] = batch.goal_tokens_N
    columns_FN[25] = batch.escalations_N
    columns_FN[26] = batch.budget_left_N
    surprisals_2N = columns_FN[:13:12]  # rows 0 and 12, until here log-probabilities; nan stays nan
    np.log(_SURE - np.minimum(surprisals_2N, 0.0), out=surprisals_2N)
    # nan is where a score is missing, and nowhere else.
    columns_FN[columns_FN != columns_FN] = 0.0
    return columns_FN.T


def looks_like_an_error(observation: str) -> bool:
    """Whether what the agent reads speaks of an error; true or planted, it cannot know."""
    text = observation.lower()
    return any(stem in text for stem in _STEMS) and _ERROR.search(text) is not None


def _entropy(logprobs_NV: Array) -> Array:
    """As `baselines.entropy_of`: what lies beyond the returned alternatives counts as one more
    outcome.
    """
    logprobs_NV = np.maximum(logprobs_NV, ABSENT)
    p_NV = np.exp(logprobs_NV)
    rest_N = np.maximum(1.0 - np.add.reduce(p_NV, axis=1), 1e-300)
    entropy_N: Array = -rest_N * np.log(rest_N) - np.add.reduce(p_NV * logprobs_NV, axis=1)
    return entropy_N


def _read_texts(batch: StepBatch) -> Array:
    """[8, N]: shares of candidates with the commonest first token and action, distinct actions;
    then whether the last action was the one before it too, the shares of candidates that repeat it
    and that repeat any action of the episode, the candidates' mean length, whether the observation
    speaks of an error.
    """
    rows = [
        (
            max(map(tokens.count, tokens)) / len(tokens) if tokens else 0.0,
            max(map(texts.count, texts)) / len(texts) if texts else 0.0,
            len(set(texts)),
            len(actions) > 1 and actions[-1] == actions[-2],
            texts.count(actions[-1]) / len(texts) if actions and texts else 0.0,
            sum(text in actions for text in texts) / len(texts) if actions and texts else 0.0,
            sum(map(word_count, texts)) / len(texts) if texts else 0.0,
            looks_like_an_error(observation),
        )
        for tokens, texts, actions, observation in zip(
            batch.first_tokens,
            batch.candidate_texts,
            batch.actions,
            batch.observations,
            strict=True,
        )
    ]
    return np.array(rows, dtype=np.float64).reshape(-1, 8).T


def _slope(earlier_N2: Array, now_N: Array) -> Array:
    """Change a step over three steps, over two where the first is unknown; nan where there is
    nothing to compare.
    """
    over_three_N = (now_N - earlier_N2[:, 0]) / 2
    return np.where(over_three_N == over_three_N, over_three_N, now_N - earlier_N2[:, 1])
