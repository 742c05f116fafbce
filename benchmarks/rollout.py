"""Tokens generated per second through runner, Ray and vLLM against offline vLLM given all prompts at once.

Invariant: the reference gets exactly the prompts, seeds and sampling of the roll-out, rebuilt from the store and checked
against the stored prompt lengths; engines have equal settings, start with an empty prefix cache and never work at the same
time. Ours includes what the reference does not have: playing the games, and that a step's prompt exists only after the
step before. The ratio starts the clock when every runner has played one game; the time with start-up is reported beside it.
"""

import argparse
import contextlib
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import ray
from transformers import AutoTokenizer

import actors.rollout as product
from actors.env_runner import RunnerSetup
from actors.servers import Checkpoint, ModelServer
from benchmarks.games import STAGE, make_tasks, make_units
from benchmarks.harness import Mismatch, Spent, interleave, median_wall, publish, same
from benchmarks.offline import OfflineEngine
from cluster.session import ray_session
from envs.tasks import seeds
from r2v_dist import rollout_store
from r2v_dist.chat import ChatFormat, Turn, opening_message
from r2v_dist.config import RunConfig, load_config
from r2v_dist.episodes import Arm, Unit
from r2v_dist.seeding import stable_hash

ROOT = Path(__file__).parent.parent
TOLERANCE = 0.05
"""Totals of tokens may differ by this share where seeded sampling is not bit-stable; more is other work."""


@dataclass(frozen=True)
class Call:
    """A model call as the reference repeats it, and what was sampled (without the end-of-turn mark)."""

    prompt_ids: list[int]
    sampling: dict[str, Any]
    action_ids: list[int]
    tokens: int


class Side:
    """Plays the units through the product's own path; every roll-out writes a folder of its own."""

    def __init__(self, config: RunConfig, server: ModelServer, units: Sequence[Unit], warm: Sequence[Unit], scratch: Path) -> None:
        self._config, self._server, self._units, self._warm, self._scratch = config, server, units, warm, scratch
        self.started: list[float] = []
        self.tokens: list[int] = []

    @property
    def folder(self) -> Path:
        """Where the latest roll-out is."""
        return self._scratch / f"{len(self.tokens):03d}"

    def roll_out(self) -> Spent:
        """One roll-out with an empty prefix cache, timed from warm runners to the last commit."""
        checkpoint, config = self._server.checkpoint, self._config
        ray.get(self._server.actor.load.remote(checkpoint.path, checkpoint.version))
        setup = RunnerSetup(config.slm, config.teacher, checkpoint.path, "", config.perturb, True, config.cluster.unit_timeout_s)
        target = self._scratch / f"{len(self.tokens) + 1:03d}"
        begun = time.perf_counter()
        with _clock_from_warm_runners(self._warm) as clock:
            totals = product.roll_out(self._units, target, setup, product.Fleet(self._server, None), config.cluster, lambda *_: None)
        ended = time.perf_counter()
        same("units played", totals.units, len(self._units))
        self.started.append(ended - begun)
        self.tokens.append(totals.sampled_tokens)
        return Spent(ended - clock[0])


@contextlib.contextmanager
def _clock_from_warm_runners(warm: Sequence[Unit]) -> Iterator[list[float]]:
    """Within the block, a roll-out has every runner play one unit first, and then notes the time."""
    clock: list[float] = []

    class Warmed(product._Dispatcher):
        def run(self) -> product.Totals:
            ray.get([runner.run.remote(unit) for runner, unit in zip(self._runners, warm, strict=False)])
            clock.append(time.perf_counter())
            return super().run()

    with mock.patch.object(product, "_Dispatcher", Warmed):
        yield clock


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--games", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=6, help="perturbation seeds of every game")
    args = parser.parse_args()
    model = (ROOT / "models" / "textworld-tiny").resolve()
    config = load_config(ROOT / "configs" / "textworld_demo.yaml", [f"slm.model={model}", f"perturb.test_seeds={args.seeds}"])
    *tasks, spare = make_tasks(args.games + 1)
    arm = Arm("slm_only", None, "base", "expert", 0)
    units = make_units(tasks, seeds(config.perturb, "test"), arm)
    warm = [replace(unit, stage="warm-up") for unit in make_units([spare], range(config.cluster.runners), arm)]
    with tempfile.TemporaryDirectory() as scratch, ray_session(config.cluster, Path(scratch) / "logs"):
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
    same("tokens in the store and in the account", sum(call.tokens for call in calls), side.tokens[0])
    requests = side.folder / "requests.json"
    requests.write_text(json.dumps([{"prompt_ids": call.prompt_ids, "sampling": call.sampling} for call in calls]))
    answers: list[list[list[int]]] = []

    def reference() -> Spent:
        seconds, token_ids = offline.generate(requests)
        answers.append(token_ids)
        return Spent(seconds)

    pairs = interleave(side.roll_out, reference, repeats)
    tokens, reference_tokens = side.tokens[-1], sum(map(len, answers[-1]))
    if abs(tokens - reference_tokens) > TOLERANCE * reference_tokens:
        raise Mismatch(f"tokens: ours {tokens}, reference {reference_tokens}")
    differing = sum(ids[: len(call.action_ids)] != call.action_ids for ids, call in zip(answers[-1], calls, strict=True))
    wall, reference_wall, started = median_wall(pairs.ours), median_wall(pairs.reference), sorted(side.started)[len(side.started) // 2]
    ratio = pairs.wall_ratio * tokens / reference_tokens
    publish(
        "rollout",
        "offline vLLM",
        ratio,
        [
            ("tokens/s, warm runners", f"{tokens / wall:,.0f}", f"{reference_tokens / reference_wall:,.0f}"),
            ("tokens/s with start-up", f"{tokens / started:,.0f}", ""),
            ("seconds, warm runners", f"{wall:.1f}", f"{reference_wall:.1f}"),
            ("seconds with start-up", f"{started:.1f}", ""),
            ("model calls", f"{len(calls)}", f"{len(answers[-1])} ({differing} answered otherwise)"),
        ],
        ratio_with_start_up=ratio * wall / started,
        tokens_per_s=tokens / wall,
        reference_tokens_per_s=reference_tokens / reference_wall,
        tokens=tokens,
        token_difference=tokens - reference_tokens,
        differing_calls=differing,
        calls=len(calls),
        repeats=repeats,
        note="ours includes the environment's own time",
    )


def calls_of(folder: Path, config: RunConfig) -> list[Call]:
    """Every model call of a roll-out, rebuilt from its rows."""
    chat = ChatFormat(AutoTokenizer.from_pretrained(config.slm.model), "slm", config.slm.system_prompt)
    chosen, stop = config.slm.sampling, chat.end_of_turn()
    shared: dict[str, Any] = {
        "n": chosen.candidates,
        "temperature": chosen.temperature,
        "top_p": chosen.top_p,
        "max_tokens": chosen.max_tokens,
    }
    shared |= {"logprobs": 20, "stop_token_ids": stop}
    calls = []
    table = rollout_store.read(folder)
    for rows in rollout_store.episodes_of(table.filter(table["t"].to_numpy() >= 0)):
        if rows[0]["stage"] != STAGE:
            continue  # what a runner played to get warm
        history: tuple[Turn, ...] = ()
        for row in rows:
            user = row["observation"] if history else opening_message(row["goal"], row["observation"])
            prompt = chat.prompt(history, user)
            same(f"prompt tokens of {row['key']} at t={row['t']}", len(prompt), row["prompt_tokens"])
            seed = stable_hash(row["task"], row["z"], row["prefix"], row["replica"], "slm") % 2**31
            calls.append(Call(prompt, {**shared, "seed": seed}, row["action_ids"], row["slm_tokens"]))
            history = (*history, Turn(user, row["action"], row["actor"], tuple(row["action_ids"])))
    return calls


if __name__ == "__main__":
    main()
