"""Rows of several answers as tensors: an answer sees exactly what it would see alone.

The attention mask hides every answer from the later ones, and positions restart after the prompt at
each answer. Axes: R rows, T tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from learners.common.packing import AnswerRow


@dataclass(frozen=True)
class RowTensors:
    """Padded rows; `offsets` says where each row begins. `mask` is [R, 1, T, T] where answers are
    hidden from each other, else [R, T].
    """

    ids_RT: Tensor
    positions_RT: Tensor
    mask: Tensor
    offsets: list[int]

    @property
    def length(self) -> int:
        """T."""
        return int(self.ids_RT.shape[1])


def row_tensors(
    rows: Sequence[AnswerRow], pad_id: int, pad_left: bool, own_mask: bool
) -> RowTensors:
    """Pad rows to one length. Rows of several answers need `own_mask`."""
    length = max(len(row.ids) for row in rows)
    offsets = [length - len(row.ids) if pad_left else 0 for row in rows]
    ids_RT = torch.full((len(rows), length), pad_id)
    positions_RT, real_RT = (torch.zeros((len(rows), length), dtype=torch.long) for _ in range(2))
    for r, (row, offset) in enumerate(zip(rows, offsets, strict=True)):
        here = slice(offset, offset + len(row.ids))
        ids_RT[r, here] = torch.tensor(row.ids)
        real_RT[r, here] = 1
        after_prompt = [len(row.prompt) + i for answer in row.answers for i in range(len(answer))]
        positions_RT[r, here] = torch.tensor([*range(len(row.prompt)), *after_prompt])
    return RowTensors(
        ids_RT, positions_RT, _tree_mask(rows, offsets, real_RT) if own_mask else real_RT, offsets
    )


def _tree_mask(rows: Sequence[AnswerRow], offsets: Sequence[int], real_RT: Tensor) -> Tensor:
    """Who may see whom [R, 1, T, T]; padding sees itself, since a softmax over nothing is not a
    number.
    """
    length = real_RT.shape[1]
    visible_RTT = torch.ones((length, length), dtype=torch.bool).tril() & real_RT.bool()[:, None, :]
    for r, (row, offset) in enumerate(zip(rows, offsets, strict=True)):
        first = offset + row.starts[0]
        for start, answer in zip(row.starts[1:], row.answers[1:], strict=True):
            visible_RTT[
                r, offset + start : offset + start + len(answer), first : offset + start
            ] = False
    visible_RTT |= torch.eye(length, dtype=torch.bool)
    return visible_RTT[:, None]
