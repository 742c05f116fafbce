"""Several answers to one prompt in one row of tokens: `prompt | answer | answer | ...`, the prompt
is read once.

Imports no torch, so that what only sends rows stays small; `learners.common.packing_tensors` makes
tensors of them.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

_SHARING_ARCHITECTURES = {"llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3", "smollm3"}


@dataclass(frozen=True)
class AnswerRow:
    """A prompt and its answers, as token ids; none is empty."""

    prompt: list[int]
    answers: tuple[list[int], ...]

    @cached_property
    def ids(self) -> list[int]:
        """The whole row."""
        return [*self.prompt, *(token for answer in self.answers for token in answer)]

    @cached_property
    def starts(self) -> list[int]:
        """Where each answer starts."""
        return list(
            accumulate((len(answer) for answer in self.answers[:-1]), initial=len(self.prompt))
        )


def can_share_prompt(model: Any) -> bool:
    """Whether this model takes an attention mask of our own over its whole context; others get one
    answer a row.
    """
    config = model.config
    full = set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
    window = getattr(config, "sliding_window", None) is not None and getattr(
        config, "use_sliding_window", True
    )
    return (
        config.model_type in _SHARING_ARCHITECTURES
        and config._attn_implementation == "sdpa"
        and full
        and not window
    )
