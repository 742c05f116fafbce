"""What a model says becomes an action in one place: clean, without reasoning, or nothing."""

import pytest

from r2v_dist.language_model import action_of
from r2v_dist.seeding import stable_hash

PROGRAM = "write\nprint('<think>x</think>')"


@pytest.mark.parametrize(
    ("answer", "action"),
    [
        ("  go east\n", "go east"),
        ("<think>\nEast or west?\n</think>\n\ngo east", "go east"),
        ("<THINKING>a</THINKING><think></think> go east", "go east"),
        ("[THINK]East?[/THINK]go east", "go east"),
        ("The template opened it.\n</think>\ngo east", "go east"),
        ("<think>I should first", ""),
        ("<think>a</think>", ""),
        (PROGRAM, PROGRAM),
        ("take \ud83d key", "take � key"),
        ("take \ud83d\ude00 😀", "take 😀 😀"),
        (" \n", ""),
    ],
)
def test_an_action_is_clean_and_holds_no_reasoning(answer: str, action: str) -> None:
    assert action_of(answer) == action
    assert stable_hash(action_of(answer)) == stable_hash(action)
