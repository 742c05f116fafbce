"""One colour and one name a router, everywhere.

Baselines are muted so that the router under test stands out among all others. Each is listed as
fitted or unfitted: that an unfitted one is behind a fitted router says little.
"""

from r2v_dist.router.names import BASELINES, BY_NAME, ROUTERS, names_of

LABELS = {info.name: info.label for info in ROUTERS}
COLOURS = {info.name: info.colour for info in ROUTERS}
MARKERS = {info.name: info.marker for info in ROUTERS}
ENDS = names_of("end")
ABLATIONS = names_of("ablation")


def is_fitted(name: str) -> bool | None:
    """Whether a router learned from data; None for the ends and the oracle."""
    return BY_NAME[name].fitted


def fitting(name: str) -> str:
    """What to write beside a baseline; empty for other routers."""
    if name not in BASELINES:
        return ""
    return "fitted" if is_fitted(name) else "unfitted"


def listed(name: str) -> str:
    """A router's name in a list of several, a baseline with whether it is fitted."""
    return ", ".join(part for part in (LABELS[name], fitting(name)) if part)
