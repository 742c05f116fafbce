"""Messages, calls of tools, and the text that actions with calls have."""

from r2v_dist.messages import (
    Message,
    Messages,
    ToolCall,
    action_text,
    read_action,
    text_of,
    with_text,
)

CALLS = (ToolCall("look", '{"b": 1, "a": 2}'), ToolCall("go", ""))


def test_an_action_with_calls_is_read_back_from_its_text() -> None:
    text = action_text("First I look.\nThen I go.", CALLS)
    content, calls = read_action(text)
    assert content == "First I look.\nThen I go."
    assert [call.canonical for call in calls] == [call.canonical for call in CALLS]
    assert read_action("no call <tool_call>{broken</tool_call>")[1] == ()


def test_equal_calls_have_equal_text_whoever_wrote_them() -> None:
    assert ToolCall("look", '{"a":2,"b":1}', "x").canonical == CALLS[0].canonical
    assert ToolCall("look", "not json").canonical != CALLS[0].canonical


def test_what_was_heard_may_be_told_otherwise() -> None:
    heard = Messages((Message("system", "s"), Message("tool", "one"), Message("tool", "two")))
    assert text_of(heard) == "one\ntwo"
    assert with_text(heard, "one\ntwo") is heard
    told = with_text(heard, "other")
    assert isinstance(told, Messages)
    assert [message.content for message in told.messages] == ["s", "other", "(see above)"]
    assert with_text("x", "y") == "y"
