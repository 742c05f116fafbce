"""Conversations as token ids that only ever grow: what was sampled is never tokenised again.

The prompt at step t is a strict prefix of the prompt at step t+1, so that an engine's prefix cache holds the whole
history and an episode trains as one sequence. Any chat template works: the text between two assistant turns is read
off the template itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

_ANSWER = "\x00answer\x00"
_REMEMBERED_TURNS = 4096


class ChatTokenizer(Protocol):
    """The part of a Hugging Face tokenizer used here."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...

    def apply_chat_template(self, conversation: Any, *, tokenize: bool, add_generation_prompt: bool) -> Any: ...


@dataclass(frozen=True)
class Turn:
    """What the agent saw (`user`) and what was answered; `action_ids` are as sampled by the model in the role of `actor`."""

    user: str
    action: str
    actor: str = ""
    action_ids: tuple[int, ...] | None = None


def opening_message(goal: str, observation: str) -> str:
    """The first user message of an episode."""
    return f"Goal: {goal}\n{observation}"


class ChatFormat:
    """Turns conversations into token ids for the model in one role (`slm` or `teacher`), with its own tokenizer."""

    def __init__(self, tokenizer: ChatTokenizer, role: str, system: str = "") -> None:
        self._tokenizer, self._role = tokenizer, role
        # An episode asks for the same turns at every step, and the arms of a unit share most of theirs.
        self._turns: dict[tuple[bool, str], list[int]] = {}
        self._system = [{"role": "system", "content": system}] if system else []

    def opening(self, user: str) -> list[int]:
        """Ids from the start of the conversation to where the assistant's first answer begins."""
        return self._remembered(True, user)

    def continuation(self, user: str) -> list[int]:
        """Ids from the end of one answer (its end-of-turn mark included) to where the next answer begins."""
        return self._remembered(False, user)

    def end_of_turn(self) -> list[int]:
        """Ids that close an answer; the first of them is what the model must emit to stop."""
        messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": _ANSWER}]
        return self._encode(self._render(messages, prompt=False).split(_ANSWER, 1)[1])[:1]

    def action_ids(self, turn: Turn) -> list[int]:
        """The answer as this role sampled it; somebody else's is text to this role and is encoded here."""
        if turn.action_ids is not None and turn.actor == self._role:
            return list(turn.action_ids)
        return self._encode(turn.action)

    def prompt(self, history: Sequence[Turn], user: str) -> list[int]:
        """The whole prompt. `tests` hold it equal to growing it turn by turn."""
        if not history:
            return self.opening(user)
        ids = self.opening(history[0].user)
        for turn, following in zip(history, [*(t.user for t in history[1:]), user], strict=True):
            ids += self.action_ids(turn) + self.continuation(following)
        return ids

    def _remembered(self, opening: bool, user: str) -> list[int]:
        if (opening, user) not in self._turns:
            if len(self._turns) >= _REMEMBERED_TURNS:
                self._turns.clear()
            before = [] if opening else [{"role": "user", "content": "x"}, {"role": "assistant", "content": _ANSWER}]
            text = self._render([*before, {"role": "user", "content": user}], prompt=True)
            self._turns[opening, user] = self._encode(text if opening else text.split(_ANSWER, 1)[1])
        return list(self._turns[opening, user])

    def _render(self, messages: list[dict[str, str]], prompt: bool) -> str:
        text: str = self._tokenizer.apply_chat_template([*self._system, *messages], tokenize=False, add_generation_prompt=prompt)
        return text

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False)
