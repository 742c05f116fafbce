"""Trains the tiny base models that stand in for a pretrained backbone (`make base-model`); runs
once, by hand.

The model reads the transcripts of `scripts.tiny_models.play` and needs no game itself.
"""

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from r2v_dist.chat import ChatFormat
from r2v_dist.messages import text_of
from scripts.tiny_models.card import CARD
from scripts.tiny_models.transcripts import (
    LM_WEIGHT,
    Batch,
    RenumberedBatches,
    Transcript,
    read_transcripts,
)

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% "
    "endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL_TOKENS = ["<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<|pad|>"]
HELD_OUT_SHARE = 0.02
"""Of the games, the last ones: their loss goes into the card."""


@dataclass(frozen=True)
class Recipe:
    """Shape of a Qwen3 model, and the play it reads.

    `detour_rates`: share of random actions, drawn an episode. `imitate_detours`: whether they are
    learned like the expert's actions.
    `perturbed_share`: of the episodes. `searches`: whether the expert has to find out what the goal
    does not tell, or sees the whole game. The backbone has read play of mixed quality and is not
    told which is good, as a pretrained model has; the teacher learns the expert, and one that
    searches can be imitated where one that sees everything cannot.
    """

    hidden: int
    layers: int
    intermediate: int
    heads: int
    detour_rates: tuple[float, ...]
    imitate_detours: bool
    perturbed_share: float
    searches: bool


RECIPES = {
    "tiny": Recipe(
        192,
        4,
        512,
        3,
        detour_rates=(0.1, 0.4, 0.8),
        imitate_detours=True,
        perturbed_share=0.25,
        searches=False,
    ),
    "small": Recipe(
        256,
        5,
        704,
        4,
        detour_rates=(0.0, 0.1, 0.3),
        imitate_detours=False,
        perturbed_share=0.75,
        searches=True,
    ),
}


def train_tokenizer(texts: list[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE whose merges may span words, so that a stock phrase is one token; names stay
    in parts to be copied.
    """
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
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>"
    )
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


def has_bfloat16(device: str) -> bool:
    """Whether arithmetic in bfloat16 is fast: a CPU without instructions for it multiplies matrices
    fifty times slower than in float32.
    """
    return (
        device == "cuda"
        or torch.cpu._is_amx_tile_supported()
        or torch.cpu._is_avx512_bf16_supported()
    )


def losses(model: Qwen3ForCausalLM, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """The weighted loss of (ids_BT, weights_BT), and the mean negative log-likelihood of the action
    tokens alone.
    """
    ids_BT, weights_BT = (tensor.to(model.device) for tensor in batch)
    with torch.autocast(
        model.device.type, dtype=torch.bfloat16, enabled=has_bfloat16(model.device.type)
    ):
        logits_BTV = model(input_ids=ids_BT[:, :-1], use_cache=False).logits.float()
    nll_BT = torch.nn.functional.cross_entropy(
        logits_BTV.transpose(1, 2), ids_BT[:, 1:], reduction="none"
    )
    weights_BT = weights_BT[:, 1:]
    loss = (nll_BT * weights_BT).sum() / weights_BT.sum()
    action_nll = nll_BT.detach()[weights_BT == 1.0].mean()
    return loss, action_nll


def train(model: Qwen3ForCausalLM, data: Iterator[Batch], steps: int) -> None:
    """Muon for the weight matrices, AdamW for the rest; 2 % warm-up, cosine decay to a
    twentieth.
    """
    hidden: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_hidden = parameter.ndim == 2 and "embed" not in name
        (hidden if is_hidden else others).append(parameter)
    optimizers = (
        torch.optim.Muon(hidden, lr=0.02, momentum=0.95, weight_decay=0.05),
        torch.optim.AdamW(others, lr=0.004, betas=(0.9, 0.98), weight_decay=0.0),
    )
    warmup = max(1, steps // 50)

    def factor(step: int) -> float:
        cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
        return min((step + 1) / warmup, 0.05 + 0.95 * cosine)

    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, factor) for optimizer in optimizers]
    tokens = 0
    started = time.monotonic()
    model.train()
    for step in range(steps):
        batch = next(data)
        loss, actions = losses(model, batch)
        model.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        tokens += batch[0].numel()
        if step % 20 == 0 or step == steps - 1:
            rate = tokens / (time.monotonic() - started)
            print(
                f"step {step}/{steps}  loss {loss.item():.3f}  actions {actions.item():.3f}  "
                f"{rate:.0f} tokens/s",
                flush=True,
            )


def held_out(transcripts: list[Transcript]) -> tuple[list[Transcript], list[Transcript]]:
    """(to learn, held out): transcripts of the last games are held out."""
    games = list(dict.fromkeys(transcript.game for transcript in transcripts))
    held_out_count = max(1, round(HELD_OUT_SHARE * len(games)))
    learned_games = set(games[: len(games) - held_out_count])
    learned: list[Transcript] = []
    held: list[Transcript] = []
    for transcript in transcripts:
        (learned if transcript.game in learned_games else held).append(transcript)
    return learned, held


@torch.no_grad()
def action_loss(model: Qwen3ForCausalLM, data: RenumberedBatches) -> float:
    """Mean negative log-likelihood of an action token, in nats, over one pass."""
    model.eval()
    return torch.stack([losses(model, batch)[1] for batch in data.one_pass(0)]).mean().item()


def main() -> None:
    """Train the tokenizer and the model on the transcripts, save both with a card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=RECIPES, default="tiny")
    parser.add_argument(
        "--transcripts", type=Path, required=True, help="what scripts.tiny_models.play wrote"
    )
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=2048, help="tokens a step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0, help="processes that prepare batches")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    recipe = RECIPES[args.size]

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    transcripts = read_transcripts(args.transcripts)
    learned, held = held_out(transcripts)
    texts: list[str] = []
    for transcript in learned:
        for turn in transcript.turns:
            texts += [text_of(turn.user), turn.action]
    tokenizer = train_tokenizer(texts, 1024)
    model = build_model(recipe, tokenizer).to(args.device)
    chat = ChatFormat(tokenizer, "slm")
    data = RenumberedBatches(learned, chat, args.tokens, args.seed, recipe.imitate_detours)
    started = time.monotonic()
    train(model, iter(DataLoader(data, batch_size=None, num_workers=args.workers)), args.steps)
    minutes = (time.monotonic() - started) / 60
    loss = action_loss(
        model, RenumberedBatches(held, chat, args.tokens, args.seed, recipe.imitate_detours)
    )
    print(f"{minutes:.1f} minutes; {loss:.3f} nats an action token on games held out", flush=True)

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
        games=len({t.game for t in transcripts}),
        detours=", ".join(f"{rate:.0%}" for rate in recipe.detour_rates),
        imitated="all actions" if recipe.imitate_detours else "the expert's actions",
        perturbed=recipe.perturbed_share,
        expert="an expert that searches for what the goal does not tell,"
        if recipe.searches
        else "the planner, which sees the whole game,",
        lm_weight=LM_WEIGHT,
        precision="bfloat16 autocast" if has_bfloat16(args.device) else "float32",
        steps=args.steps,
        tokens=args.tokens,
        held_out=loss,
        held_out_games=HELD_OUT_SHARE,
        minutes=minutes,
        machine=f"one {torch.cuda.get_device_name()}"
        if args.device == "cuda"
        else f"{args.threads} CPU thread(s)",
    )
    (args.output / "README.md").write_text(card, encoding="utf-8")


if __name__ == "__main__":
    main()
