"""A score is a function of its conversation, whatever was read before."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForTokenClassification

from learners.common.packing import AnswerRow
from learners.verifier.network import ValueModel
from learners.verifier.prefix_cache import BLOCK, PrefixScorer


@pytest.fixture(scope="module")
def verifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verifier")
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "head_dim": 16,
    }
    config = Qwen3Config(
        vocab_size=200, num_key_value_heads=1, num_labels=1, classifier_dropout=0.0, **shape
    )
    Qwen3ForTokenClassification(config).save_pretrained(folder)
    return folder


def conversations() -> list[AnswerRow]:
    """Four conversations, nine steps each, in turns; at every step up to three
    candidate answers.
    """
    rng = np.random.default_rng(0)
    prompts: list[list[int]] = [rng.integers(0, 200, 20).tolist() for _ in range(4)]
    rows = []
    for step in range(9):
        for i, prompt in enumerate(prompts):
            answers = tuple(rng.integers(0, 200, 2 + k).tolist() for k in range(1 + (i + step) % 3))
            rows.append(AnswerRow(list(prompt), answers))
            prompts[i] = [*prompt, *answers[0], *rng.integers(0, 200, 7).tolist()]
    return rows


def test_scores_are_those_of_whole_rows(verifier: Path) -> None:
    rows = conversations()
    expected = ValueModel(verifier).score(rows)
    for a, b in zip(expected, ValueModel(verifier, kept_tokens=10_000).score(rows), strict=True):
        assert b == pytest.approx(a, abs=1e-5)


@pytest.mark.parametrize("kept", [10_000, 200, 1])
def test_what_was_read_before_changes_no_bit(verifier: Path, kept: int) -> None:
    """A run that was killed starts again with a scorer that knows nothing, in the middle of a
    conversation.
    """
    rows = conversations()
    alone = [ValueModel(verifier, kept_tokens=10_000).score([row]) for row in rows]
    scorer = ValueModel(verifier, kept_tokens=kept)
    assert [scorer.score([row]) for row in rows] == alone
    assert [scorer.score([row]) for row in reversed(rows)] == alone[::-1]


def test_a_block_is_read_once(verifier: Path) -> None:
    read: list[int] = []

    class Counting:
        def __init__(self, model: Any) -> None:
            self._model = model

        def __call__(self, input_ids: torch.Tensor, **rest: Any) -> Any:
            read.append(int(input_ids.shape[1]))
            return self._model(input_ids=input_ids, **rest)

    scorer = PrefixScorer(
        Counting(Qwen3ForTokenClassification.from_pretrained(verifier).eval()), 10_000
    )
    prompt = list(range(BLOCK + 3))
    for row in (
        AnswerRow(prompt, ([1, 2],)),
        AnswerRow(prompt, ([3],)),
        AnswerRow([*prompt, *range(BLOCK)], ([4, 5],)),
    ):
        scorer.logits(row)
    assert read == [BLOCK, 3 + 2, 3 + 1, BLOCK, 3 + 2]
