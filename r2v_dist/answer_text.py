"""The one place where text of a model becomes an action: every back end hands its answers through
`action_of`.

What leaves it can be hashed, stored and sent as UTF-8, holds no reasoning, and has no space around
it. It is empty where the model gave no action; such an answer is no candidate.
"""

import re

_NAME = r"(?:seed:)?(?:think|thinking|thought|reasoning)"
_OPENING = re.compile(rf"\s*[<\[]({_NAME})[>\]]", re.IGNORECASE)
_CLOSING = re.compile(r"[<\[]/(?:seed:)?think(?:ing)?[>\]]", re.IGNORECASE)


def action_of(text: str) -> str:
    """The action in a model's answer, empty where there is none."""
    return without_reasoning(whole(text)).strip()


def whole(text: str) -> str:
    """The text with halves of surrogate pairs replaced by U+FFFD: no encoder takes them, and no
    shard could hold them."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def without_reasoning(text: str) -> str:
    """What follows the reasoning at the start of an answer; nothing where the reasoning was cut off
    before its end.

    Some templates open the reasoning in the prompt, so a closing tag without an opening one ends it
    as well.
    """
    rest = text
    while opening := _OPENING.match(rest):
        closing = re.compile(rf"[<\[]/{re.escape(opening[1])}[>\]]", re.IGNORECASE).search(rest, opening.end())
        if closing is None:
            return ""
        rest = rest[closing.end() :]
    orphan = _CLOSING.search(rest) if rest is text else None
    if orphan is None or re.search(rf"[<\[]{_NAME}[>\]]", rest[: orphan.start()], re.IGNORECASE):
        return rest
    return rest[orphan.end() :]
