"""Conversations grow and are never tokenised again."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from learners.transcripts import episode_sequence
from r2v_dist.chat import ChatFormat, Turn

QWEN_LIKE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n\n</think>\n\n{% endif %}"
)


@pytest.fixture(params=["own", "thinking"])
def tokenizer(request: pytest.FixtureRequest, tiny_model: Path) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    if request.param == "thinking":
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
        tokenizer.chat_template = QWEN_LIKE
    return tokenizer


TURNS = [
    Turn("Goal: x\nYou see a box3.", "open box3", "slm", (300, 301)),
    Turn("You open it.", "take key4", "teacher"),
    Turn("Taken.", "go east", "slm", (302,)),
]


def test_each_prompt_is_a_prefix_of_the_next(tokenizer: Any) -> None:
    chat = ChatFormat(tokenizer, "slm", system="Be brief.")
    prompts = [chat.prompt(TURNS[:n], turn.user) for n, turn in enumerate(TURNS)]
    for shorter, longer in pairwise(prompts):
        assert longer[: len(shorter)] == shorter
    assert prompts[1][len(prompts[0]) :][:2] == [300, 301]


def test_sampled_ids_are_kept_by_their_own_role_only(tokenizer: Any) -> None:
    assert ChatFormat(tokenizer, "slm").action_ids(TURNS[0]) == [300, 301]
    as_text = ChatFormat(tokenizer, "teacher").action_ids(TURNS[0])
    assert tokenizer.decode(as_text) == "open box3"


def test_training_sees_exactly_the_prompts_of_acting(tokenizer: Any) -> None:
    chat = ChatFormat(tokenizer, "slm")
    sequence = episode_sequence(chat, TURNS, [True, False, True], 10_000)
    for n, turn in enumerate(TURNS):
        prompt = chat.prompt(TURNS[:n], turn.user)
        assert sequence.input_ids[: len(prompt)] == prompt
        action = chat.action_ids(turn) + chat.end_of_turn()
        after = slice(len(prompt), len(prompt) + len(action))
        assert sequence.input_ids[after] == action
        assert sequence.completion_mask[after] == [int(n != 1)] * len(action)
    assert sum(sequence.completion_mask) == 3 + 2


def test_the_text_is_what_the_template_says(tiny_model: Path) -> None:
    chat = ChatFormat(AutoTokenizer.from_pretrained(tiny_model), "slm")
    text = AutoTokenizer.from_pretrained(tiny_model).decode(chat.prompt([Turn("a", "go east")], "b"))
    assert text == "<|user|>a<|end|><|assistant|>go east<|end|><|user|>b<|end|><|assistant|>"
