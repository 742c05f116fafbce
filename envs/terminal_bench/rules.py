"""A verifier by what a terminal says of itself: exit codes, error texts, repeated commands, and
whether files changed. It never sees a task's tests.
"""

import re
from collections.abc import Sequence

from envs.terminal_bench.actions import parse_action
from r2v_dist.chat import Turn
from r2v_dist.errors import UsageError
from r2v_dist.language_model import Candidate
from r2v_dist.messages import Heard, text_of

_ENDING = re.compile(r"^\[exit (\d+)\b.*\]$", re.MULTILINE)
_CHANGED = re.compile(r"^\[.*\b\d+ files? changed\]$", re.MULTILINE)
_ERROR = re.compile(
    r"no such file|not found|permission denied|invalid option|unrecognized option|syntax error"
    r"|cannot |fatal:|traceback|^error\b",
    re.IGNORECASE | re.MULTILINE,
)
_NOT_EXECUTED = re.compile(r"not executed|nothing was done", re.IGNORECASE)
_PATH = re.compile(r"(?<![\w.])/(?:[\w.-]+/)*[\w.-]+")


class TerminalRules:
    """Doubts what is unlikely to help: no command, a command that failed a moment ago, one that was
    given before and changed nothing, paths that nobody mentioned, and an end before any file has
    changed or right after an error. Each doubt multiplies V. A call that failed on its way to the
    terminal is worth repeating and raises no doubt.
    """

    def __init__(
        self,
        meaningless: float = 0.1,
        failed_again: float = 0.1,
        repeated: float = 0.4,
        unseen_path: float = 0.7,
        early_end: float = 0.2,
    ) -> None:
        self._meaningless = meaningless
        self._failed_again = failed_again
        self._repeated = repeated
        self._unseen_path = unseen_path
        self._early_end = early_end

    async def score(
        self, history: Sequence[Turn], user: Heard, candidates: Sequence[Candidate]
    ) -> tuple[float, ...]:
        """V of every candidate."""
        texts = [*(text_of(turn.user) for turn in history), text_of(user)]
        actions = [_meaning(turn.action) for turn in history]
        outcomes = dict(zip(actions, texts[1:], strict=True))
        return tuple(
            self._score(_meaning(candidate.text), outcomes, texts) for candidate in candidates
        )

    def _score(self, action: str, outcomes: dict[str, str], texts: list[str]) -> float:
        if not action:
            return self._meaningless
        value = 1.0
        if action == "submit":
            changed = any(_CHANGED.search(text) for text in texts[1:])
            return value if changed and not _failed(texts[-1]) else self._early_end
        outcome = outcomes.get(action)
        if outcome is not None and not _NOT_EXECUTED.search(outcome):
            value *= self._failed_again if _failed(outcome) else self._repeated
        text = "\n".join((*texts, *outcomes))
        unseen_paths = [path for path in _PATH.findall(action) if not _mentioned(path, text)]
        return value * (self._unseen_path if unseen_paths else 1.0)


def _meaning(answer: str) -> str:
    try:
        action = parse_action(answer)
    except UsageError:
        return ""
    return "submit" if action.kind == "submit" else action.text.strip()


def _failed(observation: str) -> bool:
    ending = _ENDING.findall(observation)
    return bool(ending and ending[-1] != "0") or bool(_ERROR.search(observation))


def _mentioned(path: str, text: str) -> bool:
    """Whether a path, or its last part, stands in a text; /tmp is everybody's."""
    if path.startswith(("/tmp/", "/dev/", "/bin/", "/usr/")):
        return True
    return path in text or path.rpartition("/")[2] in text
