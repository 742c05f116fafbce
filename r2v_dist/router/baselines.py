"""Scores of the baselines: functions of what one step shows.

A function of the context alone decides before the SLM is asked, and its escalations cost no SLM
call; a function of the context and the SLM's proposal needs the proposal. A router escalates where
its score is at least its threshold. `router/names.py` has one row for each.
"""

import math
from collections.abc import Sequence

from r2v_dist.errors import UsageError
from r2v_dist.language_model import Answer
from r2v_dist.router.features import looks_like_an_error
from r2v_dist.router.step_context import StepContext
from r2v_dist.seeding import rng_for


def entropy_of(logprobs: Sequence[float]) -> float:
    """Entropy in nats of a first token's distribution; what lies beyond the returned top counts as
    one more outcome.
    """
    probabilities = [math.exp(logprob) for logprob in logprobs]
    rest = max(0.0, 1.0 - sum(probabilities))
    return -sum(p * math.log(p) for p in [*probabilities, rest] if p > 1e-12)


def step_draw(context: StepContext) -> float:
    """A number in [0, 1) that is drawn at every step, equal for all arms."""
    return rng_for("random-escalation", *context.draw).random()


def episode_draw(context: StepContext) -> float:
    """A number in [0, 1) that is drawn once an episode, equal for all arms."""
    *episode, _ = context.draw
    return rng_for("random-episode", *episode).random()


def steps_taken(context: StepContext) -> float:
    """-1 at the first step, -2 at the second: at the threshold -n the teacher has the first n."""
    return -1.0 - context.t


def error_recency(context: StepContext) -> float:
    """1 where the latest observation speaks of an error, 1/2 a step later, 0 where none has: at the
    threshold 1/n the teacher has the n steps after an error.
    """
    for steps, observation in enumerate(reversed(context.observations), start=1):
        if looks_like_an_error(observation):
            return 1.0 / steps
    return 0.0


def split_vote(context: StepContext, proposal: Answer) -> float:
    """1 minus the share of the commonest action among the K; 1 where the SLM has none."""
    actions = [candidate.text for candidate in proposal.candidates]
    return 1.0 - max(map(actions.count, actions)) / len(actions) if actions else 1.0


def first_token_entropy(context: StepContext, proposal: Answer) -> float:
    """Entropy of the SLM's first token in nats."""
    return entropy_of(proposal.first_top.logprobs)


def verifier_doubt(context: StepContext, proposal: Answer) -> float:
    """1 minus the verifier's best score, 1 where the SLM has no action. Raises UsageError
    without a verifier."""
    if not proposal.candidates:
        return 1.0
    if not context.verifier_scores:
        raise UsageError(
            "router verifier: this run has no verifier; configure one or leave the router out"
        )
    return 1.0 - max(context.verifier_scores)


def entropy_or_doubt(context: StepContext, proposal: Answer) -> float:
    """The larger of 1 - exp(-entropy) and the verifier's doubt: at least tau iff either is."""
    unsure = -math.expm1(-first_token_entropy(context, proposal))
    return max(unsure, verifier_doubt(context, proposal)) if context.verifier_scores else unsure


def action_perplexity(context: StepContext, proposal: Answer) -> float:
    """exp of the mean negative log-probability of the action to be executed.

    Raises UsageError where the SLM gives no log-probabilities.
    """
    if not proposal.candidates:
        return math.inf
    logprobs = proposal.candidates[context.chosen_index].logprobs
    if not logprobs:
        raise UsageError(
            "router perplexity: this SLM gives no log-probabilities; leave the router out"
        )
    return math.exp(-sum(logprobs) / len(logprobs))


def stuck_steps(context: StepContext) -> float:
    """Latest steps in a row that led nowhere: an action said again, or an answer that is the same
    again or speaks of an error.
    """
    actions = context.actions
    observations = context.observations
    stuck = 0
    for i in reversed(range(len(actions))):
        repeats = i > 0 and actions[i] == actions[i - 1]
        if not (
            repeats
            or observations[i + 1] == observations[i]
            or looks_like_an_error(observations[i + 1])
        ):
            break
        stuck += 1
    return float(stuck)


def true_risk(context: StepContext, proposal: Answer) -> float:
    """The share of independent branches that fail: no deployed agent could know it."""
    assert context.true_risk is not None
    return context.true_risk
