"""Played episodes as training sequences: one sequence an episode, loss only where the caller says
so.

Token ids that a policy sampled are used as they are; see `r2v_dist.chat`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from r2v_dist.chat import ChatFormat, Turn

IGNORED = -100
"""The label that cross-entropy skips (Hugging Face's convention)."""


@dataclass(frozen=True)
class Sequence1D:
    """One training sequence: `input_ids` and, of equal length, 1 where an action token (end of turn
    included) is predicted.
    """

    input_ids: list[int]
    completion_mask: list[int]


def episode_sequence(
    chat: ChatFormat, turns: Sequence[Turn], trained: Sequence[bool], max_length: int
) -> Sequence1D:
    """The whole episode as one sequence, with a mask over the actions to learn.

    Args:
        turns: the episode's turns in order.
        trained: for each turn, whether its action is to be imitated.
        max_length: tokens kept; a longer episode loses its end.
    """
    ids: list[int] = []
    mask: list[int] = []
    end = chat.end_of_turn()
    for index, (turn, train) in enumerate(zip(turns, trained, strict=True)):
        prompt = chat.opening(turn.user) if index == 0 else chat.continuation(turn.user)
        if index > 0:
            prompt = prompt[len(end) :]
        action = chat.action_ids(turn) + end
        ids += prompt + action
        mask += [0] * len(prompt) + [int(train)] * len(action)
    return Sequence1D(ids[:max_length], mask[:max_length])
