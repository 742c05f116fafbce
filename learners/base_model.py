"""Makes the tiny base models that stand in for a pretrained backbone (`make base-model`); runs once, by hand.

The model reads transcripts of generated games that no run ever uses. Entities are renumbered anew in every pass, so the
only way to lower the loss is to copy names from the conversation; memorising games does not help.
"""

import argparse
import math
import random
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from envs.perturb import Perturb, default_rates
from envs.textworld import LEXICON, TextWorldEnv
from envs.textworld_games import GameFamily, draw_games, game_path, generate
from learners.transcripts import episode_sequence
from r2v_dist.chat import ChatFormat, Turn, opening_message
from r2v_dist.seeding import rng_for

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL_TOKENS = ["<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<|pad|>"]
LM_WEIGHT = 0.3
MAX_LENGTH = 1024
MAX_STEPS = 30
PERTURBED_SHARE = 0.25


@dataclass(frozen=True)
class Recipe:
    """Shape of a Qwen3 model, and the play it reads.

    `detour_rates`: share of random actions, drawn an episode. `imitate_detours`: whether they are learned like the expert's actions.
    The backbone has read play of mixed quality and is not told which is good, as a pretrained model has; the teacher learns the expert.
    """

    hidden: int
    layers: int
    intermediate: int
    heads: int
    detour_rates: tuple[float, ...]
    imitate_detours: bool


RECIPES = {
    "tiny": Recipe(192, 4, 512, 3, detour_rates=(0.1, 0.4, 0.8), imitate_detours=True),
    "small": Recipe(256, 5, 704, 4, detour_rates=(0.0, 0.1, 0.3), imitate_detours=False),
}


@dataclass(frozen=True)
class Transcript:
    """An episode: turns, and which of them the expert chose (the others are random detours)."""

    turns: tuple[Turn, ...]
    expert: tuple[bool, ...]


def base_families() -> tuple[GameFamily, ...]:
    """Quests of 2-6 steps in 1-4 rooms, goals told step by step or only by their last step."""
    ranges: tuple[tuple[str, tuple[int, int]], ...] = (("rooms", (1, 4)), ("objects", (3, 8)), ("quest_length", (2, 6)))
    return tuple(GameFamily("custom", (*ranges, ("instructions", told)), weight=weight) for told, weight in (("full", 0.6), ("last", 0.4)))


def play_game(job: tuple[str, int, tuple[float, ...]]) -> list[Transcript]:
    """Won episodes of one game: the expert with random detours, a quarter of them under perturbation."""
    path, episodes, detour_rates = job
    game = TextWorldEnv(path, expert=True, admissible=True, max_steps=MAX_STEPS)
    transcripts = []
    for episode in range(episodes):
        rng = rng_for("base-model", Path(path).stem, episode)
        z = rng.randrange(10**9, 2 * 10**9) if rng.random() < PERTURBED_SHARE else None
        env = Perturb(game, Path(path).stem, z, default_rates(), MAX_STEPS, LEXICON)
        if transcript := _play(env, rng, rng.choice(detour_rates)):
            transcripts.append(transcript)
    game.close()
    return transcripts


def _play(env: Perturb, rng: random.Random, detour_rate: float) -> Transcript | None:
    observation, info = env.reset()
    user = opening_message(info["goal"], observation)
    turns: list[Turn] = []
    expert: list[bool] = []
    while (best := env.expert_action()) is not None:
        action = best
        if rng.random() < detour_rate and info.get("admissible"):
            action = rng.choice(info["admissible"])
        turns.append(Turn(user, action))
        expert.append(action == best)
        user, reward, terminated, truncated, info = env.step(action)
        if terminated or truncated:
            return Transcript(tuple(turns), tuple(expert)) if reward > 0 else None
    return None


_NUMBERED = re.compile(r"\b([A-Za-z]+?)(\d+)\b")
_LETTERED = re.compile(r"\b([A-Z])(?=-[a-z])")


class Renumber:
    """Renames a transcript's entities consistently: numbers by kind of thing, letters shared by box and key."""

    def __init__(self, rng: random.Random, numbers: list[str]) -> None:
        self._rng, self._numbers = rng, numbers
        letters = [chr(c) for c in range(ord("A"), ord("Z") + 1)]
        self._letters = dict(zip(letters, rng.sample(letters, 26), strict=True))
        self._names: dict[tuple[str, str], str] = {}

    def __call__(self, text: str) -> str:
        text = _LETTERED.sub(lambda m: self._letters[m[1]], text)
        return _NUMBERED.sub(lambda m: m[1] + self._number(m[1].lower(), m[2]), text)

    def _number(self, kind: str, number: str) -> str:
        if (kind, number) not in self._names:
            taken = {new for (other, _), new in self._names.items() if other == kind}
            self._names[kind, number] = next(n for n in iter(lambda: self._rng.choice(self._numbers), None) if n not in taken)
        return self._names[kind, number]


def train_tokenizer(texts: list[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE whose merges may span words, so that a stock phrase is one token; names stay in parts to be copied."""
    tokenizer = Tokenizer(models.BPE())
    name_parts = Regex(r"\d|\n|[.,:] |[A-Za-z]+(?=\d)|[A-Z](?=-[a-z])|(?<=\b[A-Z])-[a-z]+")
    split = pre_tokenizers.Split(name_parts, behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=20,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>")
    fast.chat_template = CHAT_TEMPLATE
    return fast


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """A randomly initialised model of the Qwen3 architecture."""
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=math.ceil(len(tokenizer) / 64) * 64,
            hidden_size=recipe.hidden,
            num_hidden_layers=recipe.layers,
            intermediate_size=recipe.intermediate,
            num_attention_heads=recipe.heads,
            num_key_value_heads=recipe.heads,
            head_dim=64,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def batches(
    transcripts: list[Transcript], chat: ChatFormat, tokens: int, seed: int, imitate_detours: bool
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless (ids_BT, weights_BT), right-padded with weight 0; renumbered anew in every pass, similar lengths together."""
    numbers = [m[2] for t in transcripts[:500] for turn in t.turns for m in _NUMBERED.finditer(turn.user)]
    for epoch in range(10**9):
        rng = rng_for("base-model-batches", seed, epoch)
        rows = []
        for transcript in transcripts:
            renumber = Renumber(rng, numbers)
            turns = [Turn(renumber(turn.user), renumber(turn.action)) for turn in transcript.turns]
            sequence = episode_sequence(chat, turns, [imitate_detours or e for e in transcript.expert], MAX_LENGTH)
            rows.append((sequence.input_ids, [1.0 if m else LM_WEIGHT for m in sequence.completion_mask]))
        rows.sort(key=lambda row: len(row[0]))
        grouped: list[list[tuple[list[int], list[float]]]] = [[]]
        for row in rows:
            if grouped[-1] and (len(grouped[-1]) + 1) * len(row[0]) > tokens:
                grouped.append([])
            grouped[-1].append(row)
        rng.shuffle(grouped)
        for group in grouped:
            longest = max(len(ids) for ids, _ in group)
            yield (
                torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in group]),
                torch.tensor([weights + [0.0] * (longest - len(weights)) for _, weights in group]),
            )


def train(model: Qwen3ForCausalLM, data: Iterator[tuple[torch.Tensor, torch.Tensor]], steps: int) -> None:
    """Muon for the weight matrices, AdamW for the rest; 2 % warm-up, cosine decay to a twentieth."""
    hidden = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimizers = (
        torch.optim.Muon(hidden, lr=0.02, momentum=0.95, weight_decay=0.05),
        torch.optim.AdamW(others, lr=0.004, betas=(0.9, 0.98), weight_decay=0.0),
    )
    warmup = max(1, steps // 50)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda s: min((s + 1) / warmup, 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * s / steps)))
        )
        for optimizer in optimizers
    ]
    seen, started = 0, time.monotonic()
    model.train()
    for step in range(steps):
        ids_BT, weights_BT = next(data)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits_BTV = model(input_ids=ids_BT[:, :-1], use_cache=False).logits.float()
        nll_BT = torch.nn.functional.cross_entropy(logits_BTV.transpose(1, 2), ids_BT[:, 1:], reduction="none")
        loss = (nll_BT * weights_BT[:, 1:]).sum() / weights_BT[:, 1:].sum()
        model.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        seen += ids_BT.numel()
        if step % 20 == 0 or step == steps - 1:
            actions = nll_BT[weights_BT[:, 1:] == 1.0].mean().item()
            rate = seen / (time.monotonic() - started)
            print(f"step {step}/{steps}  loss {loss.item():.3f}  actions {actions:.3f}  {rate:.0f} tokens/s", flush=True)


CARD = """---
license: apache-2.0
library_name: transformers
tags: [textworld, tiny, r2v]
---
# r2v TextWorld base model, size `{name}`

Stands in for a pretrained backbone on machines without one. It reads and acts in generated TextWorld quests in the plain
text style, and knows nothing else.

| | |
|---|---|
| architecture | Qwen3, {parameters:.2f} M parameters, hidden {recipe.hidden}, {recipe.layers} layers, vocabulary {vocabulary} |
| file | bfloat16 safetensors, {megabytes:.1f} MB |
| games | {games} generated quests (2-6 expert steps, 1-4 rooms) |
| data | {transcripts} won episodes, up to {episodes} a game: the expert with {detours} random detours; {perturbed:.0%} of them perturbed |
| disjointness | the games are the split `base`, seed {seed}; runs draw train, validation, calibration and test; a test compares their ids |
| entities | renumbered at random in every pass, names drawn from the games' own distribution, so that names are copied and not memorised |
| loss | cross-entropy, {imitated} 1, everything else {lm_weight} |
| optimizer | Muon (lr 0.02) for matrices, AdamW (lr 0.004) for the rest, {steps} steps of {tokens} tokens, bfloat16 autocast |
| made by | `python -m learners.base_model --size {name} --steps {steps} --threads {threads}` (`make base-model`) |
| time | {minutes:.0f} minutes of training on {threads} CPU thread(s), plus generating and playing the games |
"""


def main() -> None:
    """Generate games, play them, train the tokenizer and the model, save both with a card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=RECIPES, default="tiny")
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--tokens", type=int, default=2048, help="tokens a step")
    parser.add_argument("--games", type=int, default=800)
    parser.add_argument("--episodes", type=int, default=10, help="episodes a game")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/r2v/textworld").expanduser())
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    recipe = RECIPES[args.size]

    specs = draw_games(base_families(), "base", args.games, args.seed)
    generate(specs, args.cache, 2, lambda done, total: print(f"game {done}/{total}", flush=True))
    with get_context("spawn").Pool(2) as pool:
        played = pool.map(
            play_game, [(str(game_path(args.cache, spec)), args.episodes, recipe.detour_rates) for spec in specs], chunksize=4
        )
    transcripts = [transcript for episodes in played for transcript in episodes]
    print(f"{len(transcripts)} transcripts", flush=True)

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    tokenizer = train_tokenizer([text for t in transcripts for turn in t.turns for text in (turn.user, turn.action)], 1024)
    model = build_model(recipe, tokenizer)
    started = time.monotonic()
    train(model, batches(transcripts, ChatFormat(tokenizer, "slm"), args.tokens, args.seed, recipe.imitate_detours), args.steps)
    minutes = (time.monotonic() - started) / 60

    model.to(torch.bfloat16).save_pretrained(args.output)
    tokenizer.save_pretrained(args.output)
    weights = args.output / "model.safetensors"
    card = CARD.format(
        name=args.size,
        parameters=sum(p.numel() for p in model.parameters()) / 1e6,
        recipe=recipe,
        vocabulary=model.config.vocab_size,
        megabytes=weights.stat().st_size / 1e6,
        transcripts=len(transcripts),
        games=args.games,
        episodes=args.episodes,
        detours=", ".join(f"{rate:.0%}" for rate in recipe.detour_rates),
        imitated="all actions" if recipe.imitate_detours else "the expert's actions",
        perturbed=PERTURBED_SHARE,
        seed=args.seed,
        lm_weight=LM_WEIGHT,
        steps=args.steps,
        tokens=args.tokens,
        minutes=minutes,
        threads=args.threads,
    )
    (args.output / "README.md").write_text(card)


if __name__ == "__main__":
    main()
