"""Control tokens of a model, and texts that spell them. Invariant: whatever a message says, its ids
hold no control token: where it spells one, it is cut there and its pieces are encoded apart.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

_CUT = "\x00\x02\x00"
"""A mark in rendered text. It contains no letter and no space, so that a template that changes case
or trims text does not change it."""
_CUT_IN_JSON = "\ue0f1\ue0f2\ue0f1"
"""As `_CUT`, in values that a template writes as JSON, which would spell the other one out."""


class _Tokenizer(Protocol):
    added_tokens_decoder: Mapping[int, Any]
    all_special_tokens: Sequence[str]
    chat_template: Any


class ControlTokens:
    """Those of a tokenizer and its template."""

    def __init__(self, tokenizer: _Tokenizer) -> None:
        self._tokenizer = tokenizer

    @cached_property
    def tokens(self) -> frozenset[str]:
        """Control tokens, which no message may contain as tokens: special tokens, and added tokens
        that the template writes."""
        template = self._tokenizer.chat_template
        source = template if isinstance(template, str) else str(template)
        tokens = set(self._tokenizer.all_special_tokens)
        for token in self._tokenizer.added_tokens_decoder.values():
            if token.special or str(token) in source:
                tokens.add(str(token))
        return frozenset(token for token in tokens if token.strip())

    @cached_property
    def _spelled(self) -> re.Pattern[str]:
        """Matches after the first letter of every control token, also where two overlap."""
        spellings = []
        for token in sorted(self.tokens):
            spellings.append(f"(?<={re.escape(token[0])})(?={re.escape(token[1:])})")
        return re.compile("|".join(spellings) or "(?!)")

    def cut(self, text: str) -> str:
        """The text, cut inside every control token that it spells."""
        if not any(token in text for token in self.tokens):
            return text
        return self._spelled.sub(_CUT, text)

    def cut_within(self, value: Any) -> Any:
        """A JSON value whose texts are cut inside every control token that they spell."""
        if isinstance(value, str):
            return self.cut(value).replace(_CUT, _CUT_IN_JSON)
        if isinstance(value, list):
            return [self.cut_within(item) for item in value]
        if isinstance(value, dict):
            return {self.cut_within(key): self.cut_within(item) for key, item in value.items()}
        return value


def joined(text: str) -> str:
    """Rendered text with one kind of cut."""
    return text.replace(_CUT_IN_JSON, _CUT)


def pieces(text: str) -> list[str]:
    """The text between the cuts."""
    return text.split(_CUT)
