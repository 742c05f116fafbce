"""The tiny base models' reading: kept as lines, renumbered consistently, held out by game."""

from pathlib import Path

import torch
from transformers import AutoTokenizer

from r2v_dist.chat import ChatFormat, Turn
from scripts.tiny_models.train import held_out
from scripts.tiny_models.transcripts import (
    RenumberedBatches,
    Transcript,
    read_transcripts,
    write_transcripts,
)

NAMES = (
    "You are in Room{0}. There is a box{1} here, and a key{0}.",
    "take key{0}",
    "You take key{0}.",
    "go to Room{0}",
)


def episode(game: int) -> Transcript:
    seen, done, then, last = (text.format(game, game + 50) for text in NAMES)
    return Transcript(f"game-{game}", (Turn(seen, done), Turn(then, last)), (True, game % 2 == 0))


def test_transcripts_survive_the_file(tmp_path: Path) -> None:
    transcripts = [episode(n) for n in range(5)]
    write_transcripts(tmp_path / "t.jsonl", transcripts)
    assert read_transcripts(tmp_path / "t.jsonl") == transcripts


def test_names_change_together_and_differ_between_passes(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    data = RenumberedBatches(
        [episode(n) for n in range(20)],
        ChatFormat(tokenizer, "slm"),
        4096,
        seed=0,
        imitate_detours=False,
    )
    passes = [
        [tokenizer.decode(ids) for batch, _ in data.one_pass(n) for ids in batch] for n in (0, 0, 1)
    ]
    assert passes[0] == passes[1] != passes[2]
    for text in passes[0]:
        taken = text.split("take key")[1].split("<")[0]
        assert f"a key{taken}." in text
        assert f"You take key{taken}." in text


def test_only_the_experts_actions_weigh_one(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    data = RenumberedBatches(
        [episode(1)], ChatFormat(tokenizer, "slm"), 4096, seed=0, imitate_detours=False
    )
    ((ids_BT, weights_BT),) = data.one_pass(0)
    learned = tokenizer.decode(ids_BT[weights_BT == torch.tensor(1.0)])
    assert learned.startswith("take key")
    assert "go to" not in learned


def test_no_game_is_both_learned_and_held_out() -> None:
    learned, held = held_out([episode(n % 100) for n in range(300)])
    assert len(learned) + len(held) == 300
    assert len({t.game for t in held}) == 2
    assert not {t.game for t in learned} & {t.game for t in held}
