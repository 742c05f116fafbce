"""Every router that can be named: one row each, read by configuration, registry and report alike.

A new router is one row here and one function in `router/baselines.py` or `router/registry.py`.
"""

from dataclasses import dataclass
from typing import Literal

Family = Literal["end", "baseline", "router", "ablation", "oracle"]
"""`end`: no threshold, one actor at every step. `router`: r2v itself. `oracle`: a bound."""
Need = Literal["logprobs", "verifier", "router"]
"""What a run must have: log-probabilities of the SLM, a verifier, a trained router."""


@dataclass(frozen=True)
class RouterInfo:
    """What is known of a router by its name."""

    name: str
    label: str
    colour: str
    family: Family
    marker: str = "o"
    fitted: bool | None = None
    """Whether it learned from outcomes; None where that is no question."""
    needs: tuple[Need, ...] = ()


# Baselines are muted, so that the router under test stands out among all others.
ROUTERS = (
    RouterInfo("slm_only", "SLM only", "#64748b", "end"),
    RouterInfo("best_of_k", "best of K by the verifier", "#475569", "end"),
    RouterInfo("teacher_only", "teacher only", "#0f766e", "end"),
    RouterInfo("random", "random escalation", "#a8a29e", "baseline", "o", False),
    RouterInfo("entropy", "first-token entropy", "#ea8a2f", "baseline", "s", False, ("logprobs",)),
    RouterInfo(
        "heuristic", "entropy or verifier", "#c2683c", "baseline", "D", False, ("logprobs",)
    ),
    RouterInfo("verifier", "verifier threshold", "#65a30d", "baseline", "^", False, ("verifier",)),
    RouterInfo("perplexity", "action perplexity", "#c79a00", "baseline", "v", False, ("logprobs",)),
    RouterInfo("stuck_latch", "stuck latch", "#b45c8f", "baseline", "X", False),
    RouterInfo(
        "query_level", "query-level classifier", "#0891b2", "baseline", "P", True, ("router",)
    ),
    RouterInfo("r2v", "r2v", "#4338ca", "router", "o", True, ("router",)),
    RouterInfo("r2v_no_cvar", "r2v without CVaR", "#dc2626", "ablation", "o", True, ("router",)),
    RouterInfo("r2v_no_brier", "r2v without Brier", "#db7706", "ablation", "o", True, ("router",)),
    RouterInfo(
        "r2v_uncalibrated", "r2v uncalibrated", "#0d9488", "ablation", "o", True, ("router",)
    ),
    RouterInfo("r2v_joint", "r2v joint (paper)", "#9333ea", "ablation", "o", True, ("router",)),
    RouterInfo(
        "r2v_dissent", "r2v by dissent alone", "#be185d", "ablation", "o", True, ("router",)
    ),
    RouterInfo("oracle", "oracle on branches", "#111827", "oracle", "*"),
)
BY_NAME = {info.name: info for info in ROUTERS}
ORACLE = "oracle"
"""Escalates by the share of independent branches that fail from a state: a bound on what a perfect
risk would buy. It is dear: `evaluate.oracle_branches` more episodes at every step."""


def names_of(*families: Family) -> tuple[str, ...]:
    """The names of some families, in the order of the table."""
    return tuple(info.name for info in ROUTERS if info.family in families)


BASELINES = names_of("baseline")
LEARNED = names_of("router", "ablation")
"""r2v and its ablations: each one `RouterModel` on the step's features, differently trained."""
EVALUATED = (*BASELINES, *LEARNED)
"""What a run evaluates unless it says otherwise; the oracle has to be asked for."""
