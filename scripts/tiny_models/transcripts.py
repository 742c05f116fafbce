"""What the tiny base models read: won episodes as JSON lines, and batches in which entities are
renumbered anew in every pass, so that names have to be copied from the conversation.
"""

import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import torch
from torch.utils.data import IterableDataset, get_worker_info

from learners.common.sequences import episode_sequence
from r2v_dist.chat import ChatFormat, Turn
from r2v_dist.messages import text_of
from r2v_dist.seeding import rng_for

LM_WEIGHT = 0.3
"""Weight of a token that is not an action to learn."""
MAX_LENGTH = 1024

Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Transcript:
    """A won episode of a game: turns, and which of them the expert chose (the others are random
    detours).
    """

    game: str
    turns: tuple[Turn, ...]
    expert: tuple[bool, ...]


def write_transcripts(path: Path, transcripts: Sequence[Transcript]) -> None:
    """One JSON object a line: the game, and of every turn what was seen, what was done and whether
    the expert chose it.
    """
    with path.open("w", encoding="utf-8") as file:
        for t in transcripts:
            turns = [
                (turn.user, turn.action, expert)
                for turn, expert in zip(t.turns, t.expert, strict=True)
            ]
            file.write(json.dumps({"game": t.game, "turns": turns}) + "\n")


def read_transcripts(path: Path) -> list[Transcript]:
    """What `write_transcripts` wrote."""
    transcripts = []
    with path.open(encoding="utf-8") as file:
        for row in map(json.loads, file):
            turns = tuple(Turn(user, action) for user, action, _ in row["turns"])
            transcripts.append(
                Transcript(row["game"], turns, tuple(expert for *_, expert in row["turns"]))
            )
    return transcripts


_NUMBERED = re.compile(r"\b([A-Za-z]+?)(\d+)\b")
_LETTERED = re.compile(r"\b([A-Z])(?=-[a-z])")


class Renumber:
    """Renames a transcript's entities consistently: numbers by kind of thing, letters shared by box
    and key.
    """

    def __init__(self, rng: random.Random, numbers: list[str]) -> None:
        self._rng = rng
        self._numbers = numbers
        letters = [chr(c) for c in range(ord("A"), ord("Z") + 1)]
        self._letters = dict(zip(letters, rng.sample(letters, 26), strict=True))
        self._names: dict[tuple[str, str], str] = {}

    def __call__(self, text: str) -> str:
        text = _LETTERED.sub(lambda m: self._letters[m[1]], text)
        return _NUMBERED.sub(lambda m: m[1] + self._number(m[1].lower(), m[2]), text)

    def _number(self, kind: str, number: str) -> str:
        if (kind, number) not in self._names:
            taken = {new for (other, _), new in self._names.items() if other == kind}
            self._names[kind, number] = next(
                n for n in iter(lambda: self._rng.choice(self._numbers), None) if n not in taken
            )
        return self._names[kind, number]


class RenumberedBatches(IterableDataset[Batch]):
    """Endless (ids_BT, weights_BT), right-padded with weight 0, similar lengths together.

    Every pass over the transcripts has names of its own; the workers of a DataLoader take whole
    passes in turn.
    """

    def __init__(
        self,
        transcripts: list[Transcript],
        chat: ChatFormat,
        tokens: int,
        seed: int,
        imitate_detours: bool,
    ) -> None:
        self._transcripts = transcripts
        self._chat = chat
        self._tokens = tokens
        self._seed = seed
        self._imitate_detours = imitate_detours
        self._numbers: list[str] = []
        for transcript in transcripts[:500]:
            for turn in transcript.turns:
                self._numbers += [match[2] for match in _NUMBERED.finditer(text_of(turn.user))]

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        for number in count() if worker is None else count(worker.id, worker.num_workers):
            yield from self.one_pass(number)

    def one_pass(self, number: int) -> Iterator[Batch]:
        """The batches of pass `number`."""
        rng = rng_for("base-model-batches", self._seed, number)
        rows = [self._row(transcript, rng) for transcript in self._transcripts]
        rows.sort(key=lambda row: len(row[0]))
        grouped: list[list[tuple[list[int], list[float]]]] = [[]]
        for row in rows:
            if grouped[-1] and (len(grouped[-1]) + 1) * len(row[0]) > self._tokens:
                grouped.append([])
            grouped[-1].append(row)
        rng.shuffle(grouped)
        for group in grouped:
            longest = max(len(ids) for ids, _ in group)
            padded_ids = []
            padded_weights = []
            for ids, weights in group:
                padding = longest - len(ids)
                padded_ids.append(ids + [0] * padding)
                padded_weights.append(weights + [0.0] * padding)
            yield torch.tensor(padded_ids), torch.tensor(padded_weights)

    def _row(self, transcript: Transcript, rng: random.Random) -> tuple[list[int], list[float]]:
        renumber = Renumber(rng, self._numbers)
        turns = [
            Turn(renumber(text_of(turn.user)), renumber(turn.action)) for turn in transcript.turns
        ]
        imitated = [self._imitate_detours or by_expert for by_expert in transcript.expert]
        sequence = episode_sequence(self._chat, turns, imitated, MAX_LENGTH)
        weights = [1.0 if is_action else LM_WEIGHT for is_action in sequence.completion_mask]
        return sequence.input_ids, weights
