"""The process verifier V(x, a) in [0, 1] (docs/method.md, section 3): three kinds behind one
interface.

`trained` is served by `actors.verifier.server`, `rules` are those of an environment
(`envs/*/rules.py`), `judge` is `llm_judge`. None reads reward, score, or any text that the deployed
agent would not see.
"""

from array import array
from collections.abc import Sequence
from typing import Protocol

from r2v_dist.chat import Turn
from r2v_dist.language_model import Candidate
from r2v_dist.messages import Heard


class Verifier(Protocol):
    """Scores the candidates of one state as one batch; best-of-K executes `select_candidate`."""

    async def score(
        self, history: Sequence[Turn], user: Heard, candidates: Sequence[Candidate]
    ) -> tuple[float, ...]:
        """V of every candidate, in order. Raises RuntimeFailure when a back end does not answer
        within its deadline.
        """
        ...


def select_candidate(actions: Sequence[str], verifier_scores: Sequence[float]) -> int:
    """Index of the candidate that is executed: the first candidate with the action whose verifier
    scores have the largest sum over all candidates (weighted best of N: Li et al., "Making language
    models better reasoners with step-aware verifier", 2023). Without a verifier, the first one.

    The argmax of single scores would act on their noise; the number of times an action is proposed
    is as informative as its verifier score.
    """
    if not verifier_scores:
        return 0
    support: dict[str, float] = {}
    stored_scores = array("f", verifier_scores)  # single precision, as in the rollout store
    for action, score in zip(actions, stored_scores, strict=True):
        support[action] = support.get(action, 0.0) + score
    return actions.index(max(support, key=support.__getitem__))
