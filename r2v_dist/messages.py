"""What is said in a conversation, as text and as calls of tools. Everything here is frozen and can
be hashed; schemas of tools and arguments of calls stay the JSON text that they came as.
"""

import json
import re
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class ToolCall:
    """One call of a tool by an assistant. `arguments` is JSON text, as the model wrote it."""

    name: str
    arguments: str
    id: str = ""

    @property
    def canonical(self) -> str:
        """The call as one JSON object. The arguments' keys are sorted where the arguments can be
        read, so that equal calls have equal text whoever wrote them; the id does not count."""
        return json.dumps(
            {"name": self.name, "arguments": _parsed(self.arguments)},
            sort_keys=True,
            ensure_ascii=False,
        )


@dataclass(frozen=True)
class Message:
    """One message to an agent. `call` is the call that a message of the role `tool` answers."""

    role: str
    content: str
    call: ToolCall | None = None


@dataclass(frozen=True)
class Messages:
    """Everything between two answers: user messages, results of tools, several of them. At the
    start of a conversation also the system message, and the tools as JSON text."""

    messages: tuple[Message, ...]
    tools: tuple[str, ...] = ()


Heard = str | Messages
"""What an agent hears before it answers; a text is one user message."""


def messages_of(heard: Heard) -> tuple[Message, ...]:
    """The messages that were heard."""
    return (Message("user", heard),) if isinstance(heard, str) else heard.messages


def text_of(heard: Heard) -> str:
    """What features and reports read of it: the texts of users and tools, a line apart."""
    if isinstance(heard, str):
        return heard
    return "\n".join(m.content for m in heard.messages if m.role != "system")


def action_text(content: str, calls: tuple[ToolCall, ...]) -> str:
    """An answer as the text of an action: what it says, then each call on a line of its own."""
    lines = [content] if content else []
    return "\n".join([*lines, *(f"<tool_call>{call.canonical}</tool_call>" for call in calls)])


def read_action(text: str) -> tuple[str, tuple[ToolCall, ...]]:
    """What an action says, and the calls in it: the reverse of `action_text`."""
    text_lines = []
    calls = []
    for line in text.split("\n"):
        call = _call_in(line)
        if call is None:
            text_lines.append(line)
        else:
            calls.append(call)
    return "\n".join(text_lines), tuple(calls)


def with_text(heard: Heard, text: str) -> Heard:
    """The same messages, saying this: what was heard may have been perturbed on its way."""
    if isinstance(heard, str):
        return text
    if text_of(heard) == text:
        return heard
    messages = list(heard.messages)
    places = [place for place, message in enumerate(messages) if message.role != "system"]
    for place in places:
        content = text if place == places[0] else "(see above)"
        messages[place] = replace(messages[place], content=content)
    return Messages(tuple(messages), heard.tools)


_CALL = re.compile(r"<tool_call>(\{.*\})</tool_call>")


def _call_in(line: str) -> ToolCall | None:
    match = _CALL.fullmatch(line)
    try:
        call = json.loads(match[1]) if match else None
    except ValueError:
        return None
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return None
    arguments = call.get("arguments", {})
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return ToolCall(call["name"], text)


def _parsed(arguments: str) -> object:
    try:
        return json.loads(arguments) if arguments.strip() else {}
    except (ValueError, RecursionError):
        return arguments
