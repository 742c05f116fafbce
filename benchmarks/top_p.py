"""Tokens generated per second on a CPU with top-p by `actors/vllm/nucleus.py`, against top-p by
vLLM itself, which sorts the vocabulary of every row.

Invariant: both sides are one engine with equal prompts and seeds, all prompts at once. They sample
the same tokens but where a rounded sum meets top-p; how many answers differ is printed.
"""

import argparse
import json
import tempfile
from itertools import chain
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from actors.vllm.engine import Site, on_cpu
from actors.vllm.nucleus import TOP_P
from benchmarks.harness import Mismatch, Spent, interleave, median_wall, publish
from benchmarks.offline import OfflineEngine
from r2v_dist.chat import ChatFormat
from r2v_dist.config.models import ModelConfig
from r2v_dist.pretrained.places import model_path

ROOT = Path(__file__).parent.parent
MOST_DIFFERING = 0.25
"""Share of answers that may differ: once a rounded sum has let another token in, the rest of an
answer is another one."""
ASKED = (
    "Write a Python function that counts the vowels of a text.",
    "Write a Python function that merges two sorted lists.",
    "Write a Python function that tells whether a number is prime.",
    "Write a Python function that turns a Roman numeral into a number.",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--answers", type=int, default=16, help="to each of 4 prompts, all at once")
    parser.add_argument("--tokens", type=int, default=64, help="most of an answer")
    parser.add_argument("--top-p", type=float, default=0.95)
    parser.add_argument("--cores", default="0", help="of the engine, as slm.cpu_cores")
    parser.add_argument(
        "--model",
        default=str(ROOT / "models" / "textworld-tiny"),
        help="a Hugging Face directory, or a name that `r2v models list` shows",
    )
    args = parser.parse_args()
    if not on_cpu(Site()):
        parser.error("with a GPU vLLM samples on it, so there is nothing to compare")
    model = model_path(args.model, "--model").resolve()
    config = ModelConfig(
        backend="vllm",
        model=str(model),
        dtype="auto",
        max_model_len=512,
        max_num_seqs=len(ASKED) * args.answers,
        cpu_cores=args.cores,
    )
    with tempfile.TemporaryDirectory() as scratch, OfflineEngine(model, config) as offline:
        compare(Path(scratch), offline, args)


def compare(scratch: Path, offline: OfflineEngine, args: argparse.Namespace) -> None:
    """Both sides in turn; prints the result."""
    chat = ChatFormat(AutoTokenizer.from_pretrained(model_path(args.model, "--model")), "slm")
    sampling = {"n": args.answers, "temperature": 0.7, "max_tokens": args.tokens, "logprobs": 1}
    ours = _requests(chat, scratch / "ours.json", sampling | {"extra_args": {TOP_P: args.top_p}})
    theirs = _requests(chat, scratch / "theirs.json", sampling | {"top_p": args.top_p})
    answers: dict[Path, list[list[list[int]]]] = {}

    def side(requests: Path) -> Spent:
        seconds, answers[requests] = offline.generate(requests)
        return Spent(seconds)

    pairs = interleave(lambda: side(ours), lambda: side(theirs), args.repeats)
    candidates = {path: list(chain.from_iterable(texts)) for path, texts in answers.items()}
    tokens = {path: sum(map(len, texts)) for path, texts in candidates.items()}
    rates = (tokens[ours] / median_wall(pairs.ours), tokens[theirs] / median_wall(pairs.reference))
    differing = sum(a != b for a, b in zip(candidates[ours], candidates[theirs], strict=True))
    if differing > MOST_DIFFERING * len(candidates[ours]):
        raise Mismatch(f"answers: {differing} of {len(candidates[ours])} differ")
    publish(
        "top_p",
        "vLLM's own top-p",
        pairs.wall_ratio * tokens[ours] / tokens[theirs],
        [
            ("tokens/s", f"{rates[0]:,.0f}", f"{rates[1]:,.0f}"),
            ("answers", str(len(candidates[ours])), f"{differing} differ"),
        ],
        tokens_per_s=rates[0],
        reference_tokens_per_s=rates[1],
        answers=len(candidates[ours]),
        differing=differing,
        repeats=args.repeats,
    )


def _requests(chat: ChatFormat, path: Path, sampling: dict[str, Any]) -> Path:
    ending = sampling | {"stop_token_ids": chat.end_of_turn()}
    requests = [
        {"prompt_ids": chat.prompt((), asked), "sampling": ending | {"seed": seed}}
        for seed, asked in enumerate(ASKED)
    ]
    path.write_text(json.dumps(requests), encoding="utf-8")
    return path


if __name__ == "__main__":
    main()
