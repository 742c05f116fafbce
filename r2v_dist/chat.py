"""Conversations as token ids. Invariant: the prompt at step t is a strict prefix of the prompt at
step t+1, and sampled ids are never tokenised again.

So an engine's prefix cache holds the whole history, and an episode trains as one sequence. Every
chat template works whose turns end with one special token: the text between two assistant turns is
read from the rendered template. The control tokens of a prompt come from the template alone; where
a message spells a control token, its letters are encoded. A prompt is the same on every day: a
template that asks for the date is told a fixed one.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import Any, Protocol

from r2v_dist.control_tokens import ControlTokens, joined, pieces
from r2v_dist.errors import UsageError
from r2v_dist.messages import Heard, Message, Messages, ToolCall, messages_of
from r2v_dist.seeding import stable_hash

_ANSWER = "\x00\x01\x00"
"""A mark in rendered text. It contains no letter and no space, so that a template that changes case
or trims text does not change it."""
_REMEMBERED_TURNS = 4096
_TODAY = date(2024, 7, 26)
"""What templates take for the date where no clock is at hand."""


class ChatTokenizer(Protocol):
    """The part of a Hugging Face tokenizer that `ChatFormat` uses."""

    eos_token_id: int | None
    added_tokens_decoder: Mapping[int, Any]
    all_special_tokens: Sequence[str]
    all_special_ids: Sequence[int]
    chat_template: Any

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...

    def apply_chat_template(
        self, conversation: Any, *, tokenize: bool, add_generation_prompt: bool, **settings: Any
    ) -> Any: ...


@dataclass(frozen=True)
class Turn:
    """What the agent heard (`user`) and the answer; `action_ids` are the ids that the model in
    the role of `actor` sampled. An answer that calls tools has its `calls` and what it says beside
    them (`content`); `action` is the text of both.
    """

    user: Heard
    action: str
    actor: str = ""
    action_ids: tuple[int, ...] | None = None
    calls: tuple[ToolCall, ...] = ()
    content: str = ""


def opening_message(goal: str, observation: str) -> str:
    """The first user message of an episode."""
    return f"Goal: {goal}\n{observation}"


_GOAL = "Goal: "


def goal_of(first: str, goal: str | None = None) -> tuple[str, str]:
    """Goal and first observation in a first message that `opening_message` may have made: where it
    did not, the message is both. A goal of several lines must be given."""
    if goal is not None:
        return goal, first.removeprefix(f"{_GOAL}{goal}\n")
    if first.startswith(_GOAL):
        goal_line, _, observation = first.removeprefix(_GOAL).partition("\n")
        return goal_line, observation
    return first, first


def prefix_group(history: Sequence[Turn], user: Heard) -> int:
    """The conversations of one number begin alike: those of one (task, z) do, at every step."""
    return stable_hash(history[0].user if history else user)


class ChatFormat:
    """Turns conversations into token ids for the model in one role (`slm` or `teacher`), with the
    tokenizer of that model.
    """

    def __init__(
        self,
        tokenizer: ChatTokenizer,
        role: str,
        system: str = "",
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """`system` opens the conversation: as a message of its own, and where the template has no
        such role, at the start of the first user message. `settings` are variables of the
        template, for example `enable_thinking`.
        """
        self._tokenizer = tokenizer
        self._control = ControlTokens(tokenizer)
        self._role = role
        self._settings = {"strftime_now": _TODAY.strftime} | dict(settings or {})
        # An episode encodes the same turns at every step, and the arms of a unit share most turns.
        self._turns: dict[tuple[bool, Heard], list[int]] = {}
        self._system = system

    def opening(self, user: Heard) -> list[int]:
        """Ids from the start of the conversation to where the assistant's first answer begins."""
        return self._remembered(True, user)

    def continuation(self, user: Heard) -> list[int]:
        """Ids from the end of one answer (its end-of-turn mark included) to where the next answer
        begins.
        """
        return self._remembered(False, user)

    def end_of_turn(self) -> list[int]:
        """The one id that closes an answer, and that the model must emit to stop.

        Raises UsageError where the template closes an answer with anything else.
        """
        return [self._end]

    def opens_answers(self) -> bool:
        """Whether a prompt ends where an answer begins.

        It does not where the template writes text between them for given answers only: the model
        would have to write that text first, and the action would begin with it.
        """
        user = _message("user", "x")
        with_opening = self._render([user], prompt=True)
        without_opening = self._render([user], prompt=False)
        if with_opening != without_opening:
            return True
        conversation = self._render([user, _message("assistant", _ANSWER)], prompt=False)
        before_answer = conversation.split(_ANSWER, 1)[0]
        return "".join(before_answer.split()) == "".join(with_opening.split())

    def stop_ids(self, eos_ids: Collection[int] = ()) -> list[int]:
        """Ids that end an answer: the end of a turn, every EOS, and the special tokens that open a
        turn in the template.

        `eos_ids` are the EOS ids of the model's generation configuration, in addition to the
        tokenizer's.
        """
        special = self._special_ids
        between = [token for token in self.continuation("x") if token in special]
        return list(dict.fromkeys([self._end, *eos_ids, *self._own_eos, *between]))

    def action_ids(self, turn: Turn) -> list[int]:
        """Ids of the answer: as sampled where this role gave it, else encoded from its text."""
        if turn.action_ids is not None and turn.actor == self._role:
            return list(turn.action_ids)
        if turn.calls:
            return self._encode(self._called(turn))
        return self._encode(self._control.cut(turn.action))

    def prompt(self, history: Sequence[Turn], user: Heard) -> list[int]:
        """The whole prompt: the same ids as opening it and adding turn by turn."""
        messages = [*(turn.user for turn in history), user]
        ids = self.opening(messages[0])
        for turn, following in zip(history, messages[1:], strict=True):
            ids += self.action_ids(turn) + self.continuation(following)
        return ids

    def _remembered(self, opening: bool, user: Heard) -> list[int]:
        turn = (opening, user)
        if turn not in self._turns:
            if len(self._turns) >= _REMEMBERED_TURNS:
                self._turns.clear()
            self._turns[turn] = self._encode(
                self._begun(user) if opening else self._following(user)
            )
        return list(self._turns[turn])

    def _begun(self, user: Heard) -> str:
        """The rendered text from the start of the conversation to where the answer begins. A
        system message that was heard stands in the place of this model's own."""
        messages = [self._shown(message) for message in messages_of(user)]
        if messages[0]["role"] != "system" and self._system:
            messages.insert(0, _message("system", self._system))
        if messages[0]["role"] == "system" and not self._has_system_role:
            system, first_message, *later_messages = messages
            content = f"{system['content']}\n\n{first_message['content']}"
            messages = [_message(first_message["role"], content), *later_messages]
        schemas = user.tools if isinstance(user, Messages) else ()
        tools = [self._control.cut_within(json.loads(tool)) for tool in schemas]
        return self._render(messages, prompt=True, tools=tools)

    def _shown(self, message: Message) -> dict[str, Any]:
        """A message as templates take it."""
        fields = _message(message.role, self._control.cut(message.content))
        if message.call is not None:
            fields |= {"name": message.call.name, "tool_call_id": message.call.id}
        return fields

    def _called(self, turn: Turn) -> str:
        """An answer that calls tools, as the template writes it."""
        calls = [
            {
                "type": "function",
                "id": call.id,
                "function": {
                    "name": self._control.cut_within(call.name),
                    "arguments": self._control.cut_within(_arguments(call.arguments)),
                },
            }
            for call in turn.calls
        ]
        answer = _message("assistant", self._control.cut(turn.content)) | {"tool_calls": calls}
        user = _message("user", "x")
        prompt = self._render([user], prompt=True)
        conversation = self._render([user, answer], prompt=False)
        if not conversation.startswith(prompt):
            raise UsageError("the chat template changes earlier text where an answer calls tools")
        return conversation[len(prompt) :].rstrip().removesuffix(self._ending)

    @cached_property
    def _has_system_role(self) -> bool:
        """Whether the template writes a system message; some refuse it, and some leave it out."""
        messages = [_message("system", _ANSWER), _message("user", "x")]
        try:
            return _ANSWER in self._render(messages, prompt=True)
        except Exception:  # a boundary: a template is a program of somebody else's
            return False

    def _following(self, user: Heard) -> str:
        """The rendered text from the end mark of an answer to where the next answer begins. The
        system message stands at the start of a conversation only, also where the template would
        write it again at the last turn.
        """
        opening = [_message("user", "x"), _message("assistant", _ANSWER)]
        messages = [self._shown(message) for message in messages_of(user)]
        parts = self._render([*opening, *messages], prompt=True).split(_ANSWER, 1)
        if len(parts) < 2:
            raise UsageError(
                "the chat template leaves an earlier answer out or changes its letters"
            )
        following = parts[1].lstrip()
        if not following.startswith(self._ending):
            raise UsageError(
                f"the chat template ends the last answer with {self._ending!r}, and an earlier "
                f"one otherwise",
            )
        return following

    @cached_property
    def _ending(self) -> str:
        """The end mark of an answer, as text."""
        messages = [_message("user", "x"), _message("assistant", _ANSWER)]
        parts = self._render(messages, prompt=False).split(_ANSWER, 1)
        if len(parts) < 2:
            raise UsageError("the chat template leaves an answer out or changes its letters")
        closing = parts[1].lstrip()
        marks = [token for token in self._control.tokens if closing.startswith(token)]
        mark = max(marks, key=len, default="")
        if not mark or len(self._encode(mark)) != 1:
            excerpt = closing.split("\n", 1)[0][:20]
            raise UsageError(
                f"the chat template ends an answer with {excerpt!r}, which is no special token: "
                f"nothing would stop the model"
            )
        return mark

    @cached_property
    def _end(self) -> int:
        return self._encode(self._ending)[0]

    @cached_property
    def _own_eos(self) -> list[int]:
        eos = self._tokenizer.eos_token_id
        return [] if eos is None else [eos]

    @cached_property
    def _special_ids(self) -> frozenset[int]:
        """Tokens that the tokenizer calls special."""
        added_tokens = self._tokenizer.added_tokens_decoder.items()
        added_special = [i for i, token in added_tokens if token.special]
        return frozenset([*self._tokenizer.all_special_ids, *added_special])

    def _render(
        self, messages: list[dict[str, Any]], prompt: bool, tools: Sequence[Any] = ()
    ) -> str:
        text: str = self._tokenizer.apply_chat_template(
            messages,
            tokenize=False,
            add_generation_prompt=prompt,
            **({"tools": list(tools)} if tools else {}),
            **self._settings,
        )
        return joined(text)

    def _encode(self, text: str) -> list[int]:
        """Ids of a text. Its pieces between cuts are encoded apart, so that no control token
        arises across a cut."""
        ids: list[int] = []
        for piece in pieces(text):
            ids += self._tokenizer.encode(piece, add_special_tokens=False)
        return ids


def _message(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}


def _arguments(text: str) -> Any:
    """Arguments as templates take them: an object; as they are written where they are none."""
    try:
        return json.loads(text)
    except ValueError:
        return text
