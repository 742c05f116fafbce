"""A verifier by rules of the game: what the parser refuses cannot help."""

import re
from collections.abc import Sequence

from r2v_dist.chat import Turn
from r2v_dist.language_model import Candidate
from r2v_dist.messages import Heard, text_of

_COMMANDS = tuple(
    re.compile(pattern)
    for pattern in (
        r"look|inventory|wait|prepare meal",
        r"go (?:north|south|east|west)",
        r"(?:examine|drop|open|close|eat|drink) (?P<a>.+)",
        r"take (?P<a>.+?)(?: from (?P<b>.+))?",
        r"put (?P<a>.+?) on (?P<b>.+)",
        r"insert (?P<a>.+?) into (?P<b>.+)",
        r"(?:lock|unlock|cook|slice|chop|dice) (?P<a>.+?) with (?P<b>.+)",
    )
)


_REFUSED = re.compile(
    r"you can't|you cannot|not a verb|no such thing|don't understand|already|is locked"
    r"|doesn't seem to|can only|which do you mean",
    re.IGNORECASE,
)


_NOT_EXECUTED = re.compile(r"not executed|nothing was done", re.IGNORECASE)


class TextWorldRules:
    """Doubts what the game would refuse: no known command, things nobody mentioned, what was
    refused a moment ago.

    Each doubt multiplies V. A call that failed on its way to the game is worth repeating and raises
    no doubt.
    """

    def __init__(
        self, unknown_command: float = 0.1, unseen_thing: float = 0.3, refused_again: float = 0.2
    ) -> None:
        self._unknown_command = unknown_command
        self._unseen_thing = unseen_thing
        self._refused_again = refused_again

    async def score(
        self, history: Sequence[Turn], user: Heard, candidates: Sequence[Candidate]
    ) -> tuple[float, ...]:
        """V of every candidate."""
        latest = text_of(user)
        text = " ".join([*(text_of(turn.user) for turn in history), latest]).lower()
        refused_commands = (
            {history[-1].action.strip().lower()} if history and _refused(latest) else set()
        )
        return tuple(
            self._score(candidate.text.strip().lower(), text, refused_commands)
            for candidate in candidates
        )

    def _score(self, action: str, text: str, refused_commands: set[str]) -> float:
        command = next(
            (match for pattern in _COMMANDS if (match := pattern.fullmatch(action))), None
        )
        if command is None:
            return self._unknown_command
        things = [
            re.sub(r"^(?:the|an?) ", "", thing) for thing in command.groupdict().values() if thing
        ]
        value = (
            1.0
            if all(re.search(rf"\b{re.escape(thing)}\b", text) for thing in things)
            else self._unseen_thing
        )
        return value * self._refused_again if action in refused_commands else value


def _refused(observation: str) -> bool:
    return bool(_REFUSED.search(observation)) and not _NOT_EXECUTED.search(observation)
