"""One colour and one name a router, everywhere.

Baselines are muted so that the router under test stands out among all others. Each is listed as fitted
or unfitted: that an unfitted one is behind a fitted router says little.
"""

from r2v_dist.config.run import FITTED_BASELINES
from r2v_dist.router.names import BASELINES, LEARNED

LABELS = {
    "slm_only": "SLM only",
    "best_of_k": "best of K by the verifier",
    "teacher_only": "teacher only",
    "r2v": "r2v",
    "random": "random escalation",
    "entropy": "first-token entropy",
    "heuristic": "entropy or verifier",
    "verifier": "verifier threshold",
    "perplexity": "action perplexity",
    "query_level": "query-level classifier",
    "stuck_latch": "stuck latch",
    "r2v_no_cvar": "r2v without CVaR",
    "r2v_no_brier": "r2v without Brier",
    "r2v_uncalibrated": "r2v uncalibrated",
    "r2v_joint": "r2v joint (paper)",
    "r2v_dissent": "r2v by dissent alone",
    "oracle": "oracle on branches",
}
COLOURS = {
    "slm_only": "#64748b",
    "best_of_k": "#475569",
    "teacher_only": "#0f766e",
    "r2v": "#4338ca",
    "random": "#a8a29e",
    "entropy": "#ea8a2f",
    "heuristic": "#c2683c",
    "verifier": "#65a30d",
    "perplexity": "#c79a00",
    "query_level": "#0891b2",
    "stuck_latch": "#b45c8f",
    "r2v_no_cvar": "#dc2626",
    "r2v_no_brier": "#db7706",
    "r2v_uncalibrated": "#0d9488",
    "r2v_joint": "#9333ea",
    "r2v_dissent": "#be185d",
    "oracle": "#111827",
}
MARKERS = {
    "random": "o",
    "entropy": "s",
    "heuristic": "D",
    "verifier": "^",
    "perplexity": "v",
    "query_level": "P",
    "stuck_latch": "X",
    "oracle": "*",
}
ENDS = ("slm_only", "best_of_k", "teacher_only")
ABLATIONS = ("r2v_no_cvar", "r2v_no_brier", "r2v_uncalibrated", "r2v_joint", "r2v_dissent")


def is_fitted(name: str) -> bool | None:
    """Whether a router learned from outcomes; None for the ends and the oracle."""
    if name in BASELINES:
        return name in FITTED_BASELINES
    return True if name in LEARNED else None


def fitting(name: str) -> str:
    """What to write beside a baseline; empty for other routers."""
    if name not in BASELINES:
        return ""
    return "fitted" if is_fitted(name) else "unfitted"


def listed(name: str) -> str:
    """A router's name in a list of several, a baseline with whether it is fitted."""
    return ", ".join(part for part in (LABELS[name], fitting(name)) if part)
