"""Text as agents meet it: any Unicode, newlines included, up to a maximum length."""

from typing import Any

from gymnasium import spaces


class UnicodeText(spaces.Text):
    """`spaces.Text` accepts only a listed charset; tool output does not keep to one."""

    def contains(self, x: Any) -> bool:
        """True for every string of at most `max_length` characters."""
        return isinstance(x, str) and self.min_length <= len(x) <= self.max_length

    def clip(self, text: str) -> str:
        """The longest prefix of `text` that the space contains."""
        return text[: self.max_length]
