"""What an answer says of itself: its `r2v` object and its headers."""

import re
from collections.abc import Mapping
from typing import Any

from r2v_dist.serving.begun import Begun

_NO_HEADER = re.compile(r"[^ -~]")
"""What a caller may name a key, and no header may hold."""


def extension(begun: Begun, versions: Mapping[str, str]) -> dict[str, Any]:
    """The `r2v` object of an answer."""
    decision = begun.outcome.decision
    proposal = decision.proposal or begun.step.proposal
    return {
        "route": begun.route,
        "reason": begun.outcome.reason,
        "would": begun.outcome.would,
        "risk": begun.risk,
        "score": decision.score,
        "threshold": begun.threshold,
        "operating_point": begun.point.name,
        "features": "exact" if begun.conversation.exact else "rebuilt",
        "calibrated": not begun.uncalibrated,
        "uncalibrated": list(begun.uncalibrated),
        "t": begun.context.t,
        "escalations": begun.context.escalations,
        "slm": None
        if proposal is None
        else {
            "candidates": len(proposal.candidates),
            "unparsable": begun.step.unparsable,
            "prompt_tokens": proposal.prompt_tokens,
            "completion_tokens": proposal.sampled_tokens,
        },
        "versions": dict(versions),
    }


def headers(begun: Begun) -> dict[str, str]:
    """The headers of an answer."""
    decision = begun.outcome.decision
    own_headers = {
        "x-r2v-route": begun.route,
        "x-r2v-reason": begun.outcome.reason,
        "x-r2v-operating-point": begun.point.name,
        "x-r2v-features": "exact" if begun.conversation.exact else "rebuilt",
        "x-r2v-calibrated": ", ".join(["false", *begun.uncalibrated])
        if begun.uncalibrated
        else "true",
        "x-r2v-overhead-ms": f"{begun.overhead_ms:.3f}",
    }
    numbers = {"risk": begun.risk, "score": decision.score, "threshold": begun.threshold}
    for name, number in numbers.items():
        if number is not None:
            own_headers[f"x-r2v-{name}"] = f"{number:.9g}"
    if begun.outcome.would:
        own_headers["x-r2v-would"] = begun.outcome.would
    if begun.route == "slm" and (ignored_keys := begun.chat.ignored_by_slm):
        own_headers["x-r2v-ignored"] = _NO_HEADER.sub("?", ", ".join(ignored_keys)[:500])
    reply = begun.outcome.reply
    return own_headers if reply is None else {**reply.headers, **own_headers}
