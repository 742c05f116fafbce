"""Routers and live steps for `benchmarks.router`, made up at the sizes of real ones."""

import math
from dataclasses import replace

import numpy as np

from benchmarks.episodes import STEPS, make_episodes
from r2v_dist.config.router import RouterConfig
from r2v_dist.episodes import Episode
from r2v_dist.language_model import Answer
from r2v_dist.router.advantage import EFFECT_FEATURES
from r2v_dist.router.calibration import Calibrator
from r2v_dist.router.features import FEATURE_NAMES
from r2v_dist.router.mlp import Mlp
from r2v_dist.router.model import ESTIMATES, RISKS, RouterModel
from r2v_dist.router.scaler import Scaler
from r2v_dist.router.step_context import StepContext
from r2v_dist.seeding import rng_for

CANDIDATES = 5
MAX_STEPS = 20

LiveStep = tuple[StepContext, Answer]


def live_steps(count: int) -> list[LiveStep]:
    """Different steps of made-up TextWorld episodes: K candidates, 20 first-token alternatives,
    verifier scores.
    """
    steps: list[LiveStep] = []
    for episode in make_episodes(math.ceil(count / STEPS)):
        steps += [_live(episode, t) for t in range(len(episode.steps))]
    return steps[:count]


def _live(episode: Episode, t: int) -> LiveStep:
    rng = rng_for("benchmark-live", str(episode.key), t)
    steps = episode.steps
    answers = [rng.choice(steps).proposal for _ in range(CANDIDATES)]
    proposal = steps[t].proposal
    assert proposal is not None
    context = StepContext(
        t=t,
        draw=(episode.key.task, episode.key.z, t),
        goal=episode.goal,
        observations=tuple(step.observation for step in steps[: t + 1]),
        actions=tuple(step.action for step in steps[:t]),
        escalations=sum(step.actor == "teacher" for step in steps[:t]),
        max_steps=MAX_STEPS,
        verifier_scores=tuple(rng.random() for _ in range(CANDIDATES)),
        verifier_bests=tuple(rng.random() for _ in range(t)),
    )
    candidates = tuple(answer.candidates[0] for answer in answers if answer is not None)
    return context, Answer(candidates, proposal.version, proposal.prompt_tokens, proposal.first_top)


def untrained_router(config: RouterConfig) -> RouterModel:
    """A decoupled router of the default sizes. Every head has an isotonic calibrator, the slowest
    kind, which is the identity here.
    """
    from learners.router.engine import Head

    wide = len(FEATURE_NAMES) + len(RISKS)
    heads = {}
    for seed, name in enumerate(RISKS):
        heads[name] = Head(len(FEATURE_NAMES), config.risk_hidden, seed).exported()
    heads["policy"] = Head(wide, config.policy_hidden, len(RISKS)).exported()
    grid = tuple(np.linspace(0, 1, 11).tolist())
    rng = np.random.default_rng(0)
    mean_F = rng.normal(size=len(FEATURE_NAMES))
    std_F = rng.uniform(0.5, 2.0, len(FEATURE_NAMES))
    scaler = Scaler(mean_F, std_F, mean_F - 3.0 * std_F, mean_F + 3.0 * std_F)
    return RouterModel(
        "untrained",
        "decoupled",
        scaler,
        heads,
        dict.fromkeys(RISKS, Calibrator("isotonic", x=grid, y=grid)),
    )


def with_advantage(model: RouterModel) -> RouterModel:
    """The same router with the heads that scoring by advantage needs."""
    from learners.router.engine import Head

    wide = len(ESTIMATES) + len(EFFECT_FEATURES)
    effects = {}
    for seed, name in ((1, "gain"), (2, "saving")):
        weights = np.random.default_rng(seed).normal(size=(1, wide))
        effects[name] = Mlp(((weights, np.ones(1)),))
    hidden = tuple(len(bias) for _, bias in model.heads["rho"].layers[:-1])
    dissent = Head(len(FEATURE_NAMES), hidden, len(ESTIMATES)).exported()
    calibrators = model.calibrators | {"dissent": model.calibrators["rho"]}
    return replace(
        model,
        heads=model.heads | effects | {"dissent": dissent},
        calibrators=calibrators,
        score="advantage",
    )
