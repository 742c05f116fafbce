"""Conversations out of messages alone: hashes, turns, what is known of earlier answers."""

import math
from array import array
from typing import Any

import pytest

from r2v_dist.messages import Message, Messages, ToolCall
from r2v_dist.serving.conversation import read_conversation
from r2v_dist.serving.errors import ApiError
from r2v_dist.serving.state import Answered, StateCache
from r2v_dist.serving.wire_messages import check_messages

FIRST = {"role": "user", "content": "Goal: open the door\nYou see a door."}
ANSWER = {"role": "assistant", "content": "open door"}
NEXT = {"role": "user", "content": "It is locked."}
CALL = {
    "id": "a" * 450,
    "type": "function",
    "function": {"name": "look", "arguments": '{"b":1,"a":2}'},
}


def read(messages: list[dict[str, Any]], cache: StateCache | None = None, **given: Any) -> Any:
    check_messages(messages)
    namespace = given.pop("namespace", ("", ""))
    return read_conversation(messages, given.pop("tools", ()), namespace, cache or StateCache(16))


def test_case_04_content_parts_are_the_text_they_join_to() -> None:
    parts = [
        {"type": "text", "text": "Goal: open the door\n"},
        {"type": "text", "text": "You see a door."},
    ]
    split = read([{"role": "user", "content": parts}])
    joined = read([FIRST])
    assert split.key == joined.key
    assert split.heard == joined.heard
    assert split.context(12, None) == joined.context(12, None)


def test_case_04_an_image_is_refused_by_name() -> None:
    part = {"type": "image_url", "image_url": {"url": "data:"}}
    with pytest.raises(ApiError) as caught:
        read([{"role": "user", "content": [part]}])
    assert caught.value.code == "unsupported_content"
    assert caught.value.param == "messages[0].content"


def test_case_38_goal_and_observation_are_those_of_training() -> None:
    context = read([FIRST, ANSWER, NEXT]).context(12, None)
    assert context.goal == "open the door"
    assert context.observations == ("You see a door.", "It is locked.")
    assert context.actions == ("open door",)
    assert (context.t, context.max_steps) == (1, 12)


def test_a_goal_of_many_lines_is_told_apart_where_it_is_given() -> None:
    messages = [{"role": "user", "content": "Goal: one\ntwo\nYou see a door."}]
    context = read(messages).context(None, "one\ntwo")
    assert (context.goal, context.observations) == ("one\ntwo", ("You see a door.",))


def test_a_first_message_without_a_goal_is_both() -> None:
    context = read([{"role": "user", "content": "hello"}]).context(None, None)
    assert (context.goal, context.observations) == ("hello", ("hello",))


def test_case_39_siblings_share_what_they_share_and_no_more() -> None:
    cache = StateCache(64)
    start = read([FIRST], cache)
    cache.put(start.after(ANSWER), Answered("slm", array("i", [1, 2]), 0.5))
    other = {"role": "assistant", "content": "push door"}
    same = read([FIRST, ANSWER, NEXT], cache)
    branch = read([FIRST, other, NEXT], cache)
    assert same.exact
    assert same.history[0].action_ids == (1, 2)
    assert not branch.exact
    assert branch.history[0].action_ids is None


def test_case_40_a_header_and_a_key_separate_equal_messages() -> None:
    plain, session, key = (
        read([FIRST], namespace=names) for names in (("", ""), ("", "s1"), ("k1", "s1"))
    )
    assert len({plain.key, session.key, key.key}) == 3


def test_case_42_an_edited_answer_is_rebuilt_and_has_no_ids() -> None:
    cache = StateCache(64)
    cache.put(read([FIRST], cache).after(ANSWER), Answered("teacher", None))
    edited = read([FIRST, {"role": "assistant", "content": "open door!"}, NEXT], cache)
    assert not edited.exact
    assert edited.escalations == 0
    assert math.isnan(edited.context(12, None).verifier_bests[0])


def test_ids_of_calls_do_not_count_and_their_places_do() -> None:
    def conversation(first: str, second: str, swapped: bool) -> bytes:
        calls = [CALL | {"id": first}, CALL | {"id": second}]
        results = [
            {"role": "tool", "tool_call_id": second if swapped else first, "content": "x"},
            {"role": "tool", "tool_call_id": first if swapped else second, "content": "y"},
        ]
        said = {"role": "assistant", "content": None, "tool_calls": calls}
        key: bytes = read([FIRST, said, *results]).key
        return key

    assert conversation("a", "b", False) == conversation("c", "d", False)
    assert conversation("a", "b", False) != conversation("a", "b", True)


def test_arguments_count_as_values_and_reasoning_not_at_all() -> None:
    other = {"name": "look", "arguments": '{"a": 2, "b": 1}'}
    said = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    same = {"role": "assistant", "content": None, "reasoning": "hm"}
    same |= {"tool_calls": [CALL | {"function": other}]}
    result = {"role": "tool", "tool_call_id": CALL["id"], "content": "a door"}
    assert read([FIRST, said, result]).key == read([FIRST, same, result]).key


def test_results_of_tools_are_heard_with_their_calls() -> None:
    said = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    result = {"role": "tool", "tool_call_id": CALL["id"], "content": "a door"}
    conversation = read([FIRST, said, result])
    call = ToolCall("look", '{"b":1,"a":2}', "a" * 450)
    assert conversation.heard == Messages((Message("tool", "a door", call),))
    assert conversation.context(12, None).observations[-1] == "a door"
    assert conversation.context(12, None).actions == (
        '<tool_call>{"arguments": {"a": 2, "b": 1}, "name": "look"}</tool_call>',
    )


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        (
            [FIRST, {"role": "tool", "tool_call_id": "a", "content": "x"}],
            "messages[1].tool_call_id",
        ),
        ([FIRST, {"role": "assistant", "tool_calls": [CALL]}, NEXT], "messages[2]"),
        (
            [FIRST, {"role": "assistant", "tool_calls": [CALL, CALL]}],
            "messages[1].tool_calls[1].id",
        ),
        ([FIRST, ANSWER], "messages"),
        ([{"role": "user", "content": None}], "messages[0].content"),
        ([{"role": "wizard", "content": "x"}], "messages[0].role"),
        ([], "messages"),
        ([ANSWER, NEXT], "messages"),
        ([{"role": "system", "content": "x"}], "messages"),
    ],
)
def test_case_33_an_order_that_no_agent_has_is_named(
    messages: list[dict[str, Any]], param: str
) -> None:
    with pytest.raises(ApiError) as caught:
        read(messages)
    assert (caught.value.status, caught.value.param) == (400, param)


def test_the_opening_names_a_conversation_at_every_step_and_tells_others_apart() -> None:
    first = read([FIRST])
    later = read([FIRST, ANSWER, NEXT])
    last = read([FIRST, ANSWER, NEXT, {"role": "assistant", "content": "kick door"}, NEXT])
    assert first.opening == first.key == later.opening == last.opening
    assert read([NEXT]).opening != first.opening
    assert read([NEXT]).root == first.root
    assert read([FIRST], namespace=("", "other session")).opening != first.opening
