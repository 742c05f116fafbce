"""Several answers to one prompt in one row of tokens, `prompt | answer | answer | ...`: the prompt
is read once, and an answer sees exactly what it would see alone.

The attention mask hides every answer from the later ones, and positions restart after the prompt at
each answer. Importing this module imports no torch, so that what only sends rows stays small. Axes:
R rows, T tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

SHARING_ARCHITECTURES = {"llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3", "smollm3"}
"""Model types whose attention takes a mask of our own."""


@dataclass(frozen=True)
class AnswerRow:
    """A prompt and its answers, as token ids; none is empty."""

    prompt: list[int]
    answers: tuple[list[int], ...]

    @cached_property
    def ids(self) -> list[int]:
        """The whole row."""
        return [*self.prompt, *chain.from_iterable(self.answers)]

    @cached_property
    def starts(self) -> list[int]:
        """Where each answer starts."""
        lengths = map(len, self.answers[:-1])
        return list(accumulate(lengths, initial=len(self.prompt)))

    @cached_property
    def lasts(self) -> list[int]:
        """Where each answer has its last token."""
        return [end - 1 for end in [*self.starts[1:], len(self.ids)]]

    @cached_property
    def positions(self) -> list[int]:
        """Of each token in its conversation: every answer follows the prompt."""
        prompt_length = len(self.prompt)
        after_prompt = (
            range(prompt_length, prompt_length + len(answer)) for answer in self.answers
        )
        return [*range(prompt_length), *chain.from_iterable(after_prompt)]


@dataclass(frozen=True)
class RowTensors:
    """Padded rows; `offsets` says where each row begins. `mask` is [R, 1, T, T] where answers are
    hidden from each other, else [R, T].
    """

    ids_RT: "Tensor"
    positions_RT: "Tensor"
    mask: "Tensor"
    offsets: list[int]

    @property
    def length(self) -> int:
        """T."""
        return int(self.ids_RT.shape[1])


def row_tensors(
    rows: Sequence[AnswerRow], pad_id: int, pad_left: bool, own_mask: bool
) -> RowTensors:
    """Pad rows to one length. Rows of several answers need `own_mask`."""
    import torch

    length = max(len(row.ids) for row in rows)
    offsets = [length - len(row.ids) if pad_left else 0 for row in rows]
    ids_RT = torch.full((len(rows), length), pad_id)
    positions_RT = torch.zeros((len(rows), length), dtype=torch.long)
    real_RT = torch.zeros((len(rows), length), dtype=torch.long)
    for r, (row, offset) in enumerate(zip(rows, offsets, strict=True)):
        span = slice(offset, offset + len(row.ids))
        ids_RT[r, span] = torch.tensor(row.ids)
        positions_RT[r, span] = torch.tensor(row.positions)
        real_RT[r, span] = 1
    mask = _tree_mask(rows, offsets, real_RT) if own_mask else real_RT
    return RowTensors(ids_RT, positions_RT, mask, offsets)


def _tree_mask(rows: Sequence[AnswerRow], offsets: Sequence[int], real_RT: "Tensor") -> "Tensor":
    """Who may see whom [R, 1, T, T]; padding sees itself, since a softmax over nothing is not a
    number.
    """
    import torch

    length = real_RT.shape[1]
    earlier_TT = torch.ones((length, length), dtype=torch.bool).tril()
    visible_RTT = earlier_TT & real_RT.bool()[:, None, :]
    for r, (row, offset) in enumerate(zip(rows, offsets, strict=True)):
        first_start = offset + row.starts[0]
        for answer_start, answer in zip(row.starts[1:], row.answers[1:], strict=True):
            start = offset + answer_start
            visible_RTT[r, start : start + len(answer), first_start:start] = False
    visible_RTT |= torch.eye(length, dtype=torch.bool)
    return visible_RTT[:, None]


def can_share_prompt(model: Any) -> bool:
    """Whether this model takes an attention mask of our own over its whole context; others get one
    answer a row.
    """
    config = model.config
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    has_window = getattr(config, "sliding_window", None) is not None
    uses_window = has_window and getattr(config, "use_sliding_window", True)
    return (
        config.model_type in SHARING_ARCHITECTURES
        and config._attn_implementation == "sdpa"
        and layers == {"full_attention"}
        and not uses_window
    )
