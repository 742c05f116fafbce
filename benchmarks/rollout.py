"""Tokens generated per second through runner, Ray and vLLM against offline vLLM given all prompts
at once.

Invariant: the reference gets exactly the prompts, seeds and sampling of the roll-out, rebuilt from
the store and checked against the stored prompt lengths; engines have equal settings, start with an
empty prefix cache and never work at the same time. On a CPU the reference finds top-p by sorting,
as vLLM does, and ours does not (`top_p` measures that alone). Ours includes what the reference does
not have: playing the games, and that a step's prompt exists only after the step before. Runners are
warm, as they are in every stage of a run but the first.
"""

import argparse
import contextlib
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from transformers import AutoTokenizer

from actors.dispatcher import roll_out
from actors.env_runner import RunnerSetup
from actors.runner_group import RunnerGroup
from actors.totals import Totals
from actors.vllm.server_handle import ModelServer
from benchmarks.games import make_tasks, make_units
from benchmarks.harness import Mismatch, Pairs, Spent, interleave, median_wall, publish, same
from benchmarks.offline import OfflineEngine
from cluster.session import ray_session
from r2v_dist.chat import ChatFormat, Turn, opening_message
from r2v_dist.config.run import RunConfig, load_config
from r2v_dist.episodes import Arm, Unit
from r2v_dist.language_model import TOP_LOGPROBS
from r2v_dist.pretrained.places import model_path
from r2v_dist.seeding import stable_hash
from r2v_dist.storage import rollouts as rollout_store
from r2v_dist.storage.checkpoints import Checkpoint

ROOT = Path(__file__).parent.parent
TOLERANCE = 0.05
"""Totals of tokens may differ by this share where seeded sampling is not bit-stable; more is other
work.
"""


@dataclass(frozen=True)
class Call:
    """A model call as the reference repeats it, and what was sampled for every candidate (without
    the end-of-turn mark).
    """

    prompt_ids: list[int]
    sampling: dict[str, Any]
    candidate_ids: list[list[int]]
    tokens: int


class Side:
    """Plays the units through the product's own path; every roll-out writes a folder of its own."""

    def __init__(
        self,
        config: RunConfig,
        server: ModelServer,
        units: Sequence[Unit],
        warm: Sequence[Unit],
        scratch: Path,
    ) -> None:
        self._config = config
        self._server = server
        self._units = units
        self._warm = warm
        self._scratch = scratch
        setup = RunnerSetup(
            config.slm,
            config.teacher,
            server.checkpoint.path,
            "",
            config.perturb,
            config.cluster.unit_timeout_s,
        )
        self._runners = RunnerGroup(setup, server, None, config.cluster)
        self.tokens: list[int] = []

    @property
    def folder(self) -> Path:
        """Where the latest roll-out is."""
        return self._scratch / f"{len(self.tokens):03d}"

    def roll_out(self) -> Spent:
        """One roll-out from warm runners to the last commit, with an empty prefix cache."""
        checkpoint = self._server.checkpoint
        if not self.tokens:
            self._play(self._warm, self._scratch / "warm-up")
        for actor in self._server.actors:
            ray.get(actor.reload.remote(checkpoint.path))
        target = self._scratch / f"{len(self.tokens) + 1:03d}"
        begun = time.perf_counter()
        totals = self._play(self._units, target)
        seconds = time.perf_counter() - begun
        same("units played", totals.units, len(self._units))
        self.tokens.append(totals.sampled_tokens)
        return Spent(seconds)

    def _play(self, units: Sequence[Unit], target: Path) -> Totals:
        return roll_out(units, target, self._runners, self._config.cluster, lambda *_: None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--games", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=16, help="perturbation seeds of every game")
    parser.add_argument(
        "--candidates", type=int, default=5, help="K, the proposals a step; 5 is the method's"
    )
    parser.add_argument(
        "--model",
        default=str(ROOT / "models" / "textworld-tiny"),
        help="a Hugging Face directory, or a name that `r2v models list` shows",
    )
    parser.add_argument("overrides", nargs="*", help="key=value, as for `r2v run`")
    args = parser.parse_args()
    *tasks, spare = make_tasks(args.games + 1)
    arm = Arm("slm_only", None, "base", "expert", 0)
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory())
        model = model_path(args.model, "--model").resolve()
        overrides = [
            f"slm.model={model}",
            f"perturb.test_seeds={args.seeds}",
            f"slm.sampling.candidates={args.candidates}",
        ]
        config = load_config(
            ROOT / "configs" / "textworld_demo.yaml", [*overrides, *args.overrides]
        )
        units = make_units(tasks, config.perturb.seeds("test", config.seed), arm)
        warm = make_units([spare], range(config.cluster.runners), arm)
        stack.enter_context(ray_session(config.cluster, Path(scratch) / "logs"))
        server = ModelServer("slm", config.slm, Checkpoint(str(model), "base"))
        try:
            server.wait()
            with OfflineEngine(model, config.slm) as offline:
                run(config, Side(config, server, units, warm, Path(scratch)), offline, args.repeats)
        finally:
            server.stop()


def run(config: RunConfig, side: Side, offline: OfflineEngine, repeats: int) -> None:
    """Record the calls, compare, print the result."""
    side.roll_out()
    calls = calls_of(side.folder, config)
    stored_tokens = sum(call.tokens for call in calls)
    same("tokens in the store and in the account", stored_tokens, side.tokens[0])
    requests = side.folder / "requests.json"
    prompts = [{"prompt_ids": call.prompt_ids, "sampling": call.sampling} for call in calls]
    requests.write_text(json.dumps(prompts), encoding="utf-8")
    answers: list[list[list[list[int]]]] = []

    def reference() -> Spent:
        seconds, token_ids = offline.generate(requests)
        answers.append(token_ids)
        return Spent(seconds)

    pairs = interleave(side.roll_out, reference, repeats)
    publish_rates(config, pairs, calls, answers[-1], side.tokens[-1])


def publish_rates(
    config: RunConfig,
    pairs: Pairs,
    calls: Sequence[Call],
    answers: Sequence[Sequence[Sequence[int]]],
    tokens: int,
) -> None:
    """Print the result. Raises Mismatch where the numbers of tokens differ by more than
    `TOLERANCE`.
    """
    reference_tokens = 0
    differing = 0
    for call, candidates in zip(calls, answers, strict=True):
        reference_tokens += sum(map(len, candidates))
        differing += not _same_answer(call, candidates)
    if abs(tokens - reference_tokens) > TOLERANCE * reference_tokens:
        raise Mismatch(f"tokens: ours {tokens}, reference {reference_tokens}")
    wall = median_wall(pairs.ours)
    reference_wall = median_wall(pairs.reference)
    reference_steps = f"{len(calls) / reference_wall:,.1f} (model calls only)"
    reference_calls = f"{len(answers)} ({differing} answered otherwise)"
    table = [
        ("tokens/s", f"{tokens / wall:,.0f}", f"{reference_tokens / reference_wall:,.0f}"),
        ("seconds", f"{wall:.1f}", f"{reference_wall:.1f}"),
        ("steps/s", f"{len(calls) / wall:,.1f}", reference_steps),
        ("model calls", f"{len(calls)}", reference_calls),
    ]
    publish(
        "rollout",
        "offline vLLM",
        pairs.wall_ratio * tokens / reference_tokens,
        table,
        tokens_per_s=tokens / wall,
        reference_tokens_per_s=reference_tokens / reference_wall,
        steps_per_s=len(calls) / wall,
        candidates=config.slm.sampling.candidates,
        tokens=tokens,
        token_difference=tokens - reference_tokens,
        differing_calls=differing,
        calls=len(calls),
        repeats=len(pairs.ours),
        note="ours includes the environment's own time",
    )


def _same_answer(call: Call, candidates: Sequence[Sequence[int]]) -> bool:
    for ours, theirs in zip(call.candidate_ids, candidates, strict=True):
        if list(theirs[: len(ours)]) != ours or len(theirs) - len(ours) > 1:
            return False
    return True


def calls_of(folder: Path, config: RunConfig) -> list[Call]:
    """Every model call of a roll-out, rebuilt from its rows."""
    tokenizer = AutoTokenizer.from_pretrained(config.slm.model)
    chat = ChatFormat(tokenizer, "slm", config.slm.system_prompt, config.slm.chat_template_kwargs)
    chosen = config.slm.sampling
    shared: dict[str, Any] = {
        "n": chosen.candidates,
        "temperature": chosen.temperature,
        "top_p": chosen.top_p,
        "max_tokens": chosen.max_tokens,
    }
    shared |= {"logprobs": TOP_LOGPROBS, "stop_token_ids": chat.end_of_turn()}
    calls = []
    table = rollout_store.read(folder)
    for rows in rollout_store.episodes_of(table.filter(table["t"].to_numpy() >= 0)):
        history: tuple[Turn, ...] = ()
        for row in rows:
            user = (
                row["observation"] if history else opening_message(row["goal"], row["observation"])
            )
            prompt = chat.prompt(history, user)
            same(
                f"prompt tokens of {row['key']} at t={row['t']}", len(prompt), row["prompt_tokens"]
            )
            seed = stable_hash(row["task"], row["z"], row["prefix"], row["replica"], "slm") % 2**31
            calls.append(
                Call(prompt, {**shared, "seed": seed}, row["candidate_ids"], row["slm_tokens"])
            )
            history = (*history, Turn(user, row["action"], row["actor"], tuple(row["action_ids"])))
    return calls


if __name__ == "__main__":
    main()
