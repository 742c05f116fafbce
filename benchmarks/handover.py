"""How a learner's adapter reaches a running engine: added as it is, against weights into which it
is merged. Seconds from the published adapter to an engine that answers with it, and tokens/s then.

Invariant: both sides hand over the same adapters, and their answers have the same tokens.
"""

import argparse
import contextlib
import shutil
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import Any

from actors.vllm.engine import EngineAnswer, EngineRequest
from actors.vllm.server_handle import ModelServer
from benchmarks.harness import Spent, interleave, median_wall, publish, same
from benchmarks.rank_memory import make_model
from learners.common.adapters import merge, own_adapter
from r2v_dist.config.cluster import ClusterConfig
from r2v_dist.config.models import ModelConfig
from r2v_dist.storage.checkpoints import Checkpoint, published

RANK = 32
REQUESTS = 32
TOKENS = 32


class Engine:
    """An engine that takes adapters, and what both sides do with it."""

    def __init__(self, folder: Path, server: ModelServer) -> None:
        self._folder = folder
        self._server = server
        self._numbers = count()
        self.answers: dict[str, list[EngineAnswer]] = {}
        self.rates: dict[str, list[float]] = {"added": [], "merged": []}

    def add(self) -> Spent:
        """One of two adapters in turn, as it is."""
        adapter = self._next()
        begun = time.perf_counter()
        self._server.load(published(adapter, f"{adapter.name}-{time.monotonic_ns()}"))
        spent = Spent(time.perf_counter() - begun)
        self._ask("added", adapter.name)
        return spent

    def merge(self) -> Spent:
        """The same adapters, merged and read as a whole."""
        adapter = self._next()
        target = self._folder / f"merged-{adapter.name}"
        shutil.rmtree(target, ignore_errors=True)
        begun = time.perf_counter()
        merge(self._folder / "model", adapter, target, "float32")
        self._server.load(Checkpoint(str(target), f"{adapter.name}-{time.monotonic_ns()}"))
        spent = Spent(time.perf_counter() - begun)
        self._ask("merged", adapter.name)
        return spent

    def _next(self) -> Path:
        """Both sides of a pair meet the same adapter."""
        return self._folder / f"adapter{next(self._numbers) // 2 % 2}"

    def _ask(self, side: str, adapter: str) -> None:
        import ray

        requests = [
            EngineRequest([7 + n, 8, 9, 10], n, 1, 0.9, 1.0, TOKENS, 1, []) for n in range(REQUESTS)
        ]
        begun = time.perf_counter()
        _, answers = ray.get(self._server.actors[0].sample.remote(requests), timeout=300)
        seconds = time.perf_counter() - begun
        tokens = sum(len(answer.token_ids[0]) for answer in answers)
        self.rates[side].append(tokens / seconds)
        first = self.answers.setdefault(adapter, answers)
        same("tokens", [a.token_ids for a in answers], [a.token_ids for a in first])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=4)
    args = parser.parse_args()
    from cluster.session import ray_session

    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        make_model(folder / "model")
        sizes = [make_adapter(folder, number) for number in range(2)]
        stack.enter_context(ray_session(ClusterConfig(num_cpus=2), folder / "logs"))
        config = ModelConfig(backend="vllm", model="random", max_model_len=512, cpu_cores="0")
        base = Checkpoint(str(folder / "model"), "base")
        server = ModelServer("slm", config, base, adapter_rank=RANK)
        stack.callback(server.stop)
        server.wait()
        engine = Engine(folder, server)
        pairs = interleave(engine.add, engine.merge, args.repeats)
    added_s, merged_s = median_wall(pairs.ours), median_wall(pairs.reference)
    rates: dict[str, Any] = {name: sum(rates) / len(rates) for name, rates in engine.rates.items()}
    table = [
        ("s to an engine that answers", f"{added_s:.3f}", f"{merged_s:.3f}"),
        ("tokens/s then", f"{rates['added']:,.0f}", f"{rates['merged']:,.0f}"),
        ("MiB of an adapter", f"{sizes[0] / 2**20:.1f}", ""),
    ]
    publish(
        "handover",
        "merged weights, written and read",
        pairs.wall_ratio,
        table,
        added_s=added_s,
        merged_s=merged_s,
        tokens_ratio=rates["added"] / rates["merged"],
        repeats=args.repeats,
    )


def make_adapter(folder: Path, number: int) -> int:
    """Random weights as a learner publishes them; their size in bytes."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    from learners.common.hf_trainer import lora_adapter
    from r2v_dist.config.learners import LoraConfig

    adapter = folder / f"adapter{number}"
    plain = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    adapted = get_peft_model(plain, lora_adapter(LoraConfig(r=RANK, alpha=RANK, dropout=0.0)))
    torch.manual_seed(number)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    adapted.save_pretrained(adapter)
    own_adapter(adapter, str(folder / "model"))
    return (adapter / "adapter_model.safetensors").stat().st_size


if __name__ == "__main__":
    main()
