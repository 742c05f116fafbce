"""The process verifier V(x, a) in [0, 1] (docs/method.md, section 3): three kinds behind one
interface.

`trained` is served by `actors.verifier.server`; `rules` and `judge` are here. None reads reward,
score, or any text that the deployed agent would not see.
"""

from array import array
from collections.abc import Sequence
from typing import Protocol

from r2v_dist.chat import Turn
from r2v_dist.language_model import Candidate


class Verifier(Protocol):
    """Scores the candidates of one state as one batch; best-of-K executes the `preferred` one."""

    async def score(
        self, history: Sequence[Turn], user: str, candidates: Sequence[Candidate]
    ) -> tuple[float, ...]:
        """V of every candidate, in order. Raises RuntimeFailure when a back end does not answer
        within its deadline.
        """
        ...


def preferred(actions: Sequence[str], verifier_scores: Sequence[float]) -> int:
    """Index of the candidate that is executed: the action with most verifier score over all
    candidates that propose it (weighted best of N), in its first place; the first candidate without
    a verifier.

    A strict argmax acts on the noise of single scores; how often an action is proposed says as much
    as what the verifier thinks of it.
    """
    if not verifier_scores:
        return 0
    support: dict[str, float] = {}
    for action, score in zip(
        actions, array("f", verifier_scores), strict=True
    ):  # in single precision, as the store keeps them
        support[action] = support.get(action, 0.0) + score
    return actions.index(max(support, key=support.__getitem__))
