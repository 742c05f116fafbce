"""The names of all routers: baselines, the router and its ablations, the oracle."""

from typing import Literal, get_args

Baseline = Literal["random", "entropy", "heuristic", "verifier", "perplexity", "stuck_latch", "query_level"]


Learned = Literal["r2v", "r2v_no_cvar", "r2v_no_brier", "r2v_uncalibrated", "r2v_joint", "r2v_dissent"]


ORACLE: Literal["oracle"] = "oracle"
"""Escalates by the share of independent branches that fail from a state: a bound on what a perfect risk would buy, and dear."""


BASELINES: tuple[str, ...] = get_args(Baseline)


LEARNED: tuple[str, ...] = get_args(Learned)
"""The router and its ablations: each one `RouterModel` on the step's features, differently trained."""
