"""Every router that can be named: one row each, read by configuration, registry and report alike.

A new unfitted router is one function in `router/baselines.py` and one row here.
"""

from dataclasses import dataclass
from typing import Literal

Family = Literal["end", "baseline", "router", "ablation", "oracle"]
"""`end`: no threshold, one actor at every step. `router`: r2v itself. `oracle`: a bound."""
Need = Literal["logprobs", "verifier", "router", "heads", "served"]
"""What a run must have: log-probabilities of the SLM, a verifier, a trained router, one with a head
for every risk (`router.mode` decoupled), or a request log to learn from (`router.served`)."""
Play = Literal["threshold", "latch", "rate"]
"""Escalate iff the score reaches the threshold; then also to the end of the episode; or iff a draw
from [0, 1) is below the threshold, which is a rate."""
LearnsFrom = Literal["outcomes", "answers", "branches"]
"""What a fitted router learns from: how the SLM's own episodes end, what the teacher would have
done in their states, or counterfactual branches, in which the teacher is played."""
Score = Literal["policy", "risk", "value", "dissent", "advantage"]
"""What a learned router compares with its threshold (`router/model.py`)."""
TrainedBy = Literal["learner", "query", "regression", "rescored", "served"]
"""The router learner, the query-level classifier, a regression, r2v's own networks with another
score, or a regression on served traffic."""


@dataclass(frozen=True)
class RouterInfo:
    """What is known of a router by its name.

    `score` names a function of `router/baselines.py`: of the context alone, then the router decides
    before the SLM is asked, or of the context and the SLM's proposal. Fitted routers have none;
    `learns_from` and `trained_by` say how they come about.
    """

    name: str
    label: str
    colour: str
    family: Family
    marker: str = "o"
    score: str | None = None
    play: Play = "threshold"
    needs: tuple[Need, ...] = ()
    learns_from: LearnsFrom | None = None
    trained_by: TrainedBy | None = None

    @property
    def fitted(self) -> bool | None:
        """Whether it learned from data; None where that is no question."""
        return None if self.family in ("end", "oracle") else self.learns_from is not None


def _unfitted(
    name: str,
    label: str,
    colour: str,
    marker: str,
    score: str,
    play: Play = "threshold",
    needs: tuple[Need, ...] = (),
) -> RouterInfo:
    return RouterInfo(name, label, colour, "baseline", marker, score, play, needs)


def _fitted(
    name: str,
    label: str,
    colour: str,
    marker: str,
    learns_from: LearnsFrom,
    trained_by: TrainedBy = "regression",
) -> RouterInfo:
    needs: tuple[Need, ...] = ("router", "served") if trained_by == "served" else ("router",)
    return RouterInfo(
        name,
        label,
        colour,
        "baseline",
        marker,
        needs=needs,
        learns_from=learns_from,
        trained_by=trained_by,
    )


def _ours(
    name: str,
    label: str,
    colour: str,
    family: Family = "ablation",
    trained_by: TrainedBy = "learner",
) -> RouterInfo:
    needs: tuple[Need, ...] = ("router", "heads") if trained_by == "rescored" else ("router",)
    return RouterInfo(
        name, label, colour, family, needs=needs, learns_from="branches", trained_by=trained_by
    )


# Baselines are muted, so that the router under test stands out among all others.
# fmt: off
ROUTERS = (
    RouterInfo("slm_only", "SLM only", "#64748b", "end"),
    RouterInfo("best_of_k", "best of K by the verifier", "#475569", "end"),
    RouterInfo("teacher_only", "teacher only", "#0f766e", "end"),
    # -- unfitted: nothing is learned but the threshold
    _unfitted("random", "random escalation", "#a8a29e", "o", "step_draw", "rate"),
    _unfitted("random_episode", "random episodes", "#78716c", "o", "episode_draw", "rate"),
    _unfitted("first_n", "first n steps", "#93a3b8", "<", "steps_taken"),
    _unfitted("after_error", "after an error", "#b08968", ">", "error_recency"),
    _unfitted("agreement", "disagreement among the K", "#6b9080", "p", "split_vote"),
    _unfitted("entropy", "first-token entropy", "#ea8a2f", "s", "first_token_entropy",
              needs=("logprobs",)),
    _unfitted("heuristic", "entropy or verifier", "#c2683c", "D", "entropy_or_doubt",
              needs=("logprobs",)),
    _unfitted("verifier", "verifier threshold", "#65a30d", "^", "verifier_doubt",
              needs=("verifier",)),
    _unfitted("perplexity", "action perplexity", "#c79a00", "v", "action_perplexity",
              needs=("logprobs",)),
    _unfitted("stuck_latch", "stuck latch", "#b45c8f", "X", "stuck_steps", "latch"),
    # -- fitted, plainer than r2v
    _fitted("query_level", "query-level classifier", "#0891b2", "P", "outcomes", "query"),
    _fitted("logistic", "logistic regression", "#be123c", "s", "outcomes"),
    _fitted("logistic_three", "logistic on three signals", "#d97706", "^", "outcomes"),
    _fitted("logistic_disagreement", "logistic on disagreement", "#4d7c0f", "D", "answers"),
    _fitted("logistic_served", "logistic on served traffic", "#7c2d12", "v", "outcomes", "served"),
    # -- r2v, and r2v with one thing changed
    _ours("r2v", "r2v", "#4338ca", "router"),
    _ours("r2v_no_cvar", "r2v without CVaR", "#dc2626"),
    _ours("r2v_no_brier", "r2v without Brier", "#db7706"),
    _ours("r2v_uncalibrated", "r2v uncalibrated", "#0d9488"),
    _ours("r2v_joint", "r2v joint (paper)", "#9333ea"),
    _ours("r2v_dissent", "r2v by disagreement alone", "#be185d"),
    _ours("r2v_risk", "r2v by risk alone", "#0369a1", trained_by="rescored"),
    _ours("r2v_value", "r2v by value alone", "#a16207", trained_by="rescored"),
    RouterInfo("oracle", "oracle on branches", "#111827", "oracle", "*", "true_risk"),
)
# fmt: on
BY_NAME = {info.name: info for info in ROUTERS}
ORACLE = "oracle"
"""Escalates by the share of independent branches that fail from a state: a bound on what a perfect
risk would buy. Expensive: `evaluate.oracle_branches` more episodes at every step."""


def names_of(*families: Family) -> tuple[str, ...]:
    """The names of some families, in the order of the table."""
    return tuple(info.name for info in ROUTERS if info.family in families)


def made_by(*trainers: TrainedBy) -> tuple[str, ...]:
    """The names of the fitted routers that come about in some ways, in the order of the table."""
    return tuple(info.name for info in ROUTERS if info.trained_by in trainers)


BY_SCORE: dict[str, Score] = {"r2v_risk": "risk", "r2v_value": "value", "r2v_dissent": "dissent"}
"""r2v routed by one of its estimates: the name of the router, and the score."""
BASELINES = names_of("baseline")
LEARNED = made_by("learner", "regression", "rescored", "served")
"""Each is one `RouterModel` on the step's features, differently trained."""
FORECASTING = tuple(
    info.name
    for info in ROUTERS
    if info.learns_from in ("outcomes", "branches") and info.trained_by != "rescored"
)
"""Those that predict the residual risk, each in its own way."""
DRAWN = tuple(info.name for info in ROUTERS if info.play == "rate")
"""Routers without a score: a threshold of theirs is a rate."""
SERVED = made_by("served")
EVALUATED = tuple(
    name for name in (*BASELINES, *names_of("router", "ablation")) if name not in SERVED
)
"""What a run evaluates unless it says otherwise; the oracle and what learns from served traffic
have to be asked for."""
