"""Episodes worth a look: where the SLM failed and help rescued it, where it needed none, where help came too late."""

import math
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from r2v_dist import rollout_store
from r2v_dist.run_dir import RunDir

PER_KIND = 2


@dataclass(frozen=True)
class Sample:
    """One episode to show, and why it was chosen."""

    why: str
    rows: list[dict[str, Any]]


def sample_episodes(run: RunDir) -> list[Sample]:
    """A few episodes of each kind, the same ones every time."""
    table = rollout_store.read(run.rollouts("evaluate"))
    perturbed = table.filter(pc.is_valid(table["z"]))
    outcomes = rollout_store.outcomes(perturbed).select(["key", "task", "z", "router", "success", "n_steps"]).to_pylist()
    alone = {(o["task"], o["z"]): o for o in outcomes if o["router"] == "slm_only"}
    routed = [o for o in outcomes if o["router"] == "entropy"]
    kinds = {
        "SLM alone fails, routed succeeds": [o["key"] for o in routed if o["success"] and not alone[o["task"], o["z"]]["success"]],
        "SLM alone fails": [o["key"] for o in alone.values() if not o["success"]],
        "SLM alone succeeds": [o["key"] for o in alone.values() if o["success"] and o["n_steps"] >= 4],
        "fails in spite of routing": [o["key"] for o in routed if not o["success"]],
    }
    chosen = {key: why for why, keys in kinds.items() for key in sorted(keys)[:PER_KIND]}
    wanted = table.filter(pc.is_in(table["key"].cast("string"), value_set=pc.unique(_strings(list(chosen)))))
    episodes = {episode[0]["key"]: episode for episode in rollout_store.episodes_of(wanted)}
    return [Sample(why, [_shown(row) for row in episodes[key]]) for key, why in chosen.items()]


def _strings(values: list[str]) -> Any:
    import pyarrow as pa

    return pa.array(values, pa.string())


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    candidates = [
        {"text": text, "probability": math.exp(sum(logprobs))}
        for text, logprobs in zip(row["candidate_texts"] or [], row["candidate_logprobs"] or [], strict=True)
    ]
    return row | {"candidates": candidates}
