"""Conversations with the families of models that the configurations name: whatever a template does
to system messages, dates, reasoning and BOS, a prompt begins with the one before it and the ids
that were sampled."""

from functools import cache
from itertools import pairwise
from typing import Any

import pytest
from transformers import AutoTokenizer

from actors.language_models.tokenizer import LightTokenizer
from actors.language_models.tokenizer_file import stored_form
from learners.common.sequences import episode_sequence
from r2v_dist.chat import ChatFormat, Turn
from r2v_dist.config.models import ModelConfig
from r2v_dist.pipeline.chat_check import check_template
from r2v_dist.pretrained.catalogue import catalogue
from r2v_dist.pretrained.places import fetched_folder, not_fetched
from tests.chat_families import FAMILIES, family_tokenizer

SYSTEM = "Answer with one action."
SAMPLED = "go  east\n "
"""Text that a template would trim."""
REAL = ("smollm2-135m-instruct", "qwen2.5-coder-0.5b-instruct")
"""Of the catalogue, where they are fetched; its other model has the tokenizer of the second."""
LATER = ("It is dark. ", "\n-= Room =-\n You see 2 keys")


@cache
def fetched(name: str) -> Any:
    folder = fetched_folder(name, catalogue()[name])
    if folder is None:
        pytest.skip(f"{name}: {not_fetched(name)}")
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(params=[*FAMILIES, *REAL])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    name = request.param
    return family_tokenizer(name) if name in FAMILIES else fetched(name)


def turns(tokenizer: Any) -> list[Turn]:
    sampled = tuple(tokenizer.encode(SAMPLED, add_special_tokens=False))
    return [
        Turn("Goal: go east", SAMPLED.strip(), "slm", sampled),
        Turn(LATER[0], "take key", "teacher"),
        Turn(LATER[1], SAMPLED.strip(), "slm", sampled),
    ]


@pytest.mark.parametrize("settings", [{}, {"enable_thinking": False}])
def test_a_prompt_begins_with_the_one_before_and_what_was_sampled(
    tokenizer: Any, settings: dict[str, Any]
) -> None:
    chat = ChatFormat(tokenizer, "slm", SYSTEM, settings)
    played = turns(tokenizer)
    prompts = [chat.prompt(played[:t], turn.user) for t, turn in enumerate(played)]
    prompts.append(chat.prompt(played, "end"))
    for turn, (shorter, longer) in zip(played, pairwise(prompts), strict=True):
        start = [*shorter, *chat.action_ids(turn), *chat.end_of_turn()]
        assert longer[: len(start)] == start
        assert turn.actor != "slm" or tuple(chat.action_ids(turn)) == turn.action_ids
    learned = episode_sequence(chat, played, [True] * 3, 10_000)
    assert learned.input_ids == prompts[2] + chat.action_ids(played[2]) + chat.end_of_turn()


def test_what_acts_and_what_trains_encode_alike(tokenizer: Any) -> None:
    stored = stored_form(tokenizer)
    assert stored is not None
    played = turns(tokenizer)
    light, full = (
        ChatFormat(reader, "slm", SYSTEM) for reader in (LightTokenizer(stored), tokenizer)
    )
    assert light.prompt(played, "end") == full.prompt(played, "end")
    assert light.stop_ids() == full.stop_ids()


def test_the_text_is_what_the_template_writes_of_the_whole_conversation(tokenizer: Any) -> None:
    """Where it writes an answer as it was given: with reasoning, see below."""
    if tokenizer.chat_template == FAMILIES["qwen3"][0]:
        pytest.skip("this template writes the same answer in two ways")
    messages = [{"role": "system", "content": SYSTEM}]
    if tokenizer.chat_template == FAMILIES["gemma-2"][0]:
        messages = []
    first = "x" if messages else f"{SYSTEM}\n\nx"
    for user, answer in ((first, "go"), ("y", "take key")):
        messages += [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]
    messages.append({"role": "user", "content": "z"})
    text = tokenizer.apply_chat_template(
        messages,
        tokenize=False,
        add_generation_prompt=True,
        strftime_now=lambda _: "26 Jul 2024",
    )
    chat = ChatFormat(tokenizer, "slm", SYSTEM)
    ids = chat.prompt([Turn("x", "go"), Turn("y", "take key")], "z")
    assert tokenizer.decode(ids) == text
    assert ids == tokenizer.encode(text, add_special_tokens=False)


def test_the_system_prompt_stands_once_and_first(tokenizer: Any) -> None:
    config = ModelConfig(backend="vllm", model="m", system_prompt=SYSTEM)
    check_template(tokenizer, "slm.model = m", "slm", config)
    prompt = tokenizer.decode(
        ChatFormat(tokenizer, "slm", SYSTEM).prompt([Turn("Look!", "go")], "y")
    )
    assert prompt.count(SYSTEM) == 1
    assert prompt.index(SYSTEM) < prompt.index("Look!")


@pytest.mark.parametrize("family", ["gemma-2", "llama-3.1"])
def test_bos_stands_once_though_the_tokenizer_adds_its_own(family: str) -> None:
    tokenizer = family_tokenizer(family)
    assert tokenizer.encode("x")[0] == tokenizer.bos_token_id
    ids = ChatFormat(tokenizer, "slm").prompt(turns(tokenizer), "end")
    places = [place for place, token in enumerate(ids) if token == tokenizer.bos_token_id]
    assert places == [0]


def test_a_template_without_a_system_role_gets_it_in_the_first_message() -> None:
    tokenizer = family_tokenizer("gemma-2")
    chat = ChatFormat(tokenizer, "slm", SYSTEM)
    assert tokenizer.decode(chat.opening("look")) == (
        f"<bos><start_of_turn>user\n{SYSTEM}\n\nlook<end_of_turn>\n<start_of_turn>model\n"
    )
    assert tokenizer.decode(chat.continuation("look")) == (
        "<end_of_turn>\n<start_of_turn>user\nlook<end_of_turn>\n<start_of_turn>model\n"
    )


def test_a_prompt_is_the_same_tomorrow() -> None:
    tokenizer = family_tokenizer("llama-3.1")
    opening = tokenizer.decode(ChatFormat(tokenizer, "slm").opening("x"))
    assert "Today: 26 Jul 2024" in opening
    given = ChatFormat(tokenizer, "slm", settings={"strftime_now": lambda _: "another day"})
    assert "Today: another day" in tokenizer.decode(given.opening("x"))


def test_an_empty_thought_stays_where_it_was_when_the_answer_has_passed() -> None:
    """The template writes earlier answers without; what was computed would then be of no use."""
    tokenizer = family_tokenizer("qwen3")
    chat = ChatFormat(tokenizer, "slm", settings={"enable_thinking": False})
    assert tokenizer.decode(chat.prompt([Turn("x", "go")], "y")) == (
        "<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
        "go<|im_end|>\n"
        "<|im_start|>user\ny<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_needs_a_pad_token(family: str) -> None:
    tokenizer = family_tokenizer(family)
    assert tokenizer.pad_token is None
    end = tokenizer.convert_tokens_to_ids(FAMILIES[family][2])
    chat = ChatFormat(tokenizer, "slm")
    assert chat.end_of_turn() == [end]
    assert end in chat.stop_ids()
