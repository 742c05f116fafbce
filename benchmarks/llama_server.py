"""Tokens generated per second by one engine of ours on a CPU, against llama.cpp's server from its
Python package, on the same prompts: greedy, both on the same cores.

    python -m benchmarks.llama_server --llama-python VENV/bin/python --model NAME

VENV holds `llama-cpp-python[server]`. llama.cpp reads the packages' GGUF file as it is, ours the
weights that `r2v models fetch` dequantised from it. Their server answers one question after the
other, so it is asked like that; `ratio` is ours with all questions at once, as a rollout asks, and
`one_ratio` ours one after the other.

Invariant: both sides see equally many prompt tokens, and the texts begin alike: where half of the
answers part within `ALIKE` letters, the weights or prompts are not the same and there is no number.
"""

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import aiohttp
from transformers import AutoTokenizer

from benchmarks.gateway import free_port
from benchmarks.harness import (
    Mismatch,
    Pairs,
    Spent,
    interleave,
    median_wall,
    publish,
    worker_niceness,
)
from benchmarks.offline import OfflineEngine
from benchmarks.top_p import ASKED
from r2v_dist.chat import ChatFormat
from r2v_dist.config.models import ModelConfig
from r2v_dist.config.places import cache_folder
from r2v_dist.pretrained.catalogue import catalogued
from r2v_dist.pretrained.packages import assemble
from r2v_dist.pretrained.places import packages_folder

ALIKE = 40
"""Quantised products are rounded differently from bfloat16's, so greedy texts part some time."""
_START_S = 300.0
_ANSWER_S = 600.0
_SUBJECTS = ("a text", "a list of numbers", "a dictionary", "a file's lines")


@dataclass(frozen=True)
class Question:
    """One prompt, as both sides take it."""

    text: str
    token_ids: list[int]


@dataclass(frozen=True)
class Answers:
    """What a side wrote last: texts, and the tokens of all of them."""

    texts: list[str]
    tokens: int


Side = Callable[[], tuple[float, Answers]]
"""Asks every question once."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--llama-python", required=True, help="has llama-cpp-python[server]")
    parser.add_argument("--model", default="smollm2-135m-instruct", help="as `r2v models list`")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=64, help="most of an answer")
    args = parser.parse_args()
    model = catalogued(args.model)
    if model.packages is None:
        parser.error(f"--model {args.model}: no GGUF file of it is known")
    path = packages_folder(args.model, model.packages)
    if not path.is_dir():
        parser.error(f"run `r2v models fetch {args.model} --source packages` first")
    work = cache_folder("benchmarks") / path.name
    work.mkdir(parents=True, exist_ok=True)
    gguf = assemble(model.packages, work, lambda done, total, what: print(f"{done}/{total} {what}"))
    config = ModelConfig(
        backend="vllm",
        model=str(path),
        dtype="auto",
        max_model_len=512,
        max_num_seqs=len(_questions(path)),
    )
    with (
        tempfile.TemporaryDirectory() as scratch,
        _server(args.llama_python, gguf) as port,
        OfflineEngine(path, config) as engine,
    ):
        ours = Ours(engine, path, Path(scratch), args.tokens)
        questions = _questions(path)
        compare(ours, lambda: asyncio.run(_ask(port, questions, args.tokens)), args.repeats)


class Ours:
    """Our side: the engine, asked all questions at once or one after the other."""

    def __init__(self, engine: OfflineEngine, path: Path, scratch: Path, tokens: int) -> None:
        self._engine = engine
        self._tokenizer: Any = AutoTokenizer.from_pretrained(path)
        end = ChatFormat(self._tokenizer, "slm").end_of_turn()
        sampling = {"temperature": 0.0, "max_tokens": tokens, "stop_token_ids": end}
        requests = [{"prompt_ids": q.token_ids, "sampling": sampling} for q in _questions(path)]
        self._all = [_written(scratch / "all.json", requests)]
        self._one = [_written(scratch / f"{i}.json", [one]) for i, one in enumerate(requests)]

    def at_once(self) -> tuple[float, Answers]:
        """Seconds, and what was answered."""
        return self._generate(self._all)

    def one_by_one(self) -> tuple[float, Answers]:
        """Seconds, and what was answered."""
        return self._generate(self._one)

    def _generate(self, files: list[Path]) -> tuple[float, Answers]:
        seconds = 0.0
        token_ids: list[list[int]] = []
        for file in files:
            took, answered = self._engine.generate(file)
            seconds += took
            token_ids += [candidates[0] for candidates in answered]
        texts = [self._tokenizer.decode(ids, skip_special_tokens=True) for ids in token_ids]
        return seconds, Answers(texts, sum(map(len, token_ids)))


def compare(ours: Ours, theirs: Side, repeats: int) -> None:
    """All sides in turn; prints the result."""
    wrote: dict[str, Answers] = {}

    def spent(name: str, side: Side) -> Spent:
        seconds, wrote[name] = side()
        return Spent(seconds)

    def pairs(name: str, side: Side) -> Pairs:
        return interleave(lambda: spent(name, side), lambda: spent("theirs", theirs), repeats)

    at_once = pairs("at once", ours.at_once)
    one_by_one = pairs("one by one", ours.one_by_one)
    alike, equal = likeness(wrote["one by one"].texts, wrote["theirs"].texts)
    their_tokens = wrote["theirs"].tokens
    their_rate = their_tokens / median_wall(at_once.reference + one_by_one.reference)
    rate = wrote["at once"].tokens / median_wall(at_once.ours)
    one_rate = wrote["one by one"].tokens / median_wall(one_by_one.ours)
    publish(
        "llama_server",
        "llama.cpp",
        at_once.wall_ratio * wrote["at once"].tokens / their_tokens,
        [
            ("tokens/s, all at once", f"{rate:,.0f}", f"{their_rate:,.0f} (one by one)"),
            ("tokens/s, one by one", f"{one_rate:,.0f}", f"{their_rate:,.0f}"),
            ("letters until texts part", f"{alike:.0f}", f"{equal} texts are equal"),
        ],
        one_ratio=one_by_one.wall_ratio * wrote["one by one"].tokens / their_tokens,
        tokens_per_s=rate,
        one_tokens_per_s=one_rate,
        reference_tokens_per_s=their_rate,
        answers=len(wrote["theirs"].texts),
        equal=equal,
        letters_alike=alike,
        repeats=repeats,
    )


def likeness(ours: list[str], theirs: list[str]) -> tuple[float, int]:
    """Letters until texts part (median), and how many never do. Raises Mismatch below `ALIKE`."""
    pairs = [(a.strip(), b.strip()) for a, b in zip(ours, theirs, strict=True)]
    alike = statistics.median(_shared(*pair) for pair in pairs)
    if alike < ALIKE:
        raise Mismatch(f"texts: half of them are alike for {alike:.0f} letters only")
    return alike, sum(a == b for a, b in pairs)


def _shared(ours: str, theirs: str) -> int:
    """How many letters two texts begin with alike."""
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(ours, theirs, strict=False))
    return sum(1 for _ in alike)


def _written(path: Path, requests: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps(requests), encoding="utf-8")
    return path


def _questions(path: Path) -> list[Question]:
    tokenizer: Any = AutoTokenizer.from_pretrained(path)
    chat = ChatFormat(tokenizer, "slm")
    questions = []
    for asked in ASKED:
        for subject in _SUBJECTS:
            token_ids = chat.prompt((), f"{asked} Then say how you would test it with {subject}.")
            questions.append(Question(tokenizer.decode(token_ids), token_ids))
    return questions


@contextlib.contextmanager
def _server(python: str, gguf: Path) -> Iterator[int]:
    """The port of llama.cpp's server, once it answers."""
    port = free_port()
    threads = str(len(os.sched_getaffinity(0)))
    command = [python, "-m", "llama_cpp.server", "--model", str(gguf), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--n_ctx", "512", "--n_threads", threads]
    command += ["--n_threads_batch", threads, "--verbose", "False"]
    process = subprocess.Popen(
        ["nice", "-n", str(worker_niceness()), *command], stdout=subprocess.DEVNULL
    )
    try:
        asyncio.run(_await_models(port, process))
        yield port
    finally:
        process.kill()
        process.wait()


async def _await_models(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_S
    timeout = aiohttp.ClientTimeout(total=10)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with session.get(f"http://127.0.0.1:{port}/v1/models") as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(0.2)
    raise Mismatch(f"llama.cpp's server did not start within {_START_S:g} s; its message is above")


async def _ask(port: int, questions: list[Question], tokens: int) -> tuple[float, Answers]:
    """Every question in turn. Raises Mismatch where the server reads other prompts than ours."""
    url = f"http://127.0.0.1:{port}/v1/completions"
    texts: list[str] = []
    written = 0
    started = time.perf_counter()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_ANSWER_S)) as session:
        for asked in questions:
            body = {"prompt": asked.text, "max_tokens": tokens, "temperature": 0.0}
            body["repeat_penalty"] = 1.0
            async with session.post(url, json=body) as response:
                response.raise_for_status()
                answer = await response.json()
            usage = answer["usage"]
            if usage["prompt_tokens"] != len(asked.token_ids):
                raise Mismatch(
                    f"prompt: ours has {len(asked.token_ids)} tokens, theirs "
                    f"{usage['prompt_tokens']}"
                )
            texts.append(answer["choices"][0]["text"])
            written += usage["completion_tokens"]
    return time.perf_counter() - started, Answers(texts, written)


if __name__ == "__main__":
    main()
