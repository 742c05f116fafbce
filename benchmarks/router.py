"""The time of a decision: a live step's features and the learned router, against a BERT-size query
classifier and a torch MLP.

Invariant: ours is the call of an agent at a step, `build_router(...).decide` on a proposal that
this call is the first to see. The torch side computes the same features and the same heads, and
both give equal scores. Everything runs on one core.
"""

import argparse
import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.harness import Mismatch, Pairs, Spent, interleave, measure, publish
from benchmarks.live_steps import (
    CANDIDATES,
    LiveStep,
    live_steps,
    untrained_router,
    with_advantage,
)
from r2v_dist.config.router import RouterConfig
from r2v_dist.language_model import Answer
from r2v_dist.router.advantage import EFFECT_FEATURES, LEAST_COST, LEAST_GAIN
from r2v_dist.router.features import FEATURE_NAMES, features
from r2v_dist.router.model import ESTIMATES, RISKS, RouterModel
from r2v_dist.router.policies import Decision
from r2v_dist.router.registry import RouterModels, build_router
from r2v_dist.router.step_batch import StepBatch
from r2v_dist.router.step_context import StepContext

QUERY_TOKENS = 60
TOLERANCE = 1e-9

Decide = Callable[[StepContext, Answer], object]


@dataclass
class Clock:
    """Times single calls; a run's `wall_s` is the median call, so that pairs compare decisions and
    not stalls of the machine.
    """

    seconds: list[float]

    def run(self, decide: Decide, steps: Sequence[LiveStep]) -> Spent:
        """One run over all steps."""
        mine: list[float] = []

        def work() -> None:
            for context, answer in steps:
                start = time.perf_counter()
                decide(context, answer)
                mine.append(time.perf_counter() - start)

        spent = measure(work)
        self.seconds += mine
        return Spent(statistics.median(mine), spent.cpu_s / len(mine))

    def percentile(self, percent: float) -> float:
        """Microseconds of a call."""
        return 1e6 * float(np.percentile(self.seconds, percent))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--steps", type=int, default=400, help="live steps in a run, all different")
    parser.add_argument(
        "--queries", type=int, default=3, help="queries a run of the BERT-size classifier"
    )
    parser.add_argument(
        "--layers", type=int, default=12, help="of the classifier; 12 are BERT-base"
    )
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    import torch

    torch.set_num_threads(1)
    run(live_steps(args.steps), args.queries, args.layers, args.repeats)


def run(steps: Sequence[LiveStep], queries: int, layers: int, repeats: int) -> None:
    """Check that scores agree, compare with both, print the result."""
    model = untrained_router(RouterConfig())
    decide = decider(model)
    by_torch = torch_router(model)
    check_equal(decide, by_torch, steps)
    weighing = with_advantage(model)
    by_advantage = decider(weighing)
    check_equal(by_advantage, torch_router(weighing), steps)
    classify, parameters = query_classifier(layers)
    ours = Clock([])
    torch_clock = Clock([])
    bert_clock = Clock([])

    def pairs(reference: Clock, other: Decide, work: Sequence[LiveStep]) -> Pairs:
        return interleave(
            lambda: ours.run(decide, steps), lambda: reference.run(other, work), repeats
        )

    against_torch = pairs(torch_clock, by_torch, steps)
    against_bert = pairs(bert_clock, classify, steps[:queries])
    features_us = typical(only_features, steps)
    advantage_us = typical(by_advantage, steps)
    p50 = ours.percentile(50)
    p99 = ours.percentile(99)
    torch_p50 = torch_clock.percentile(50)
    bert_p50 = bert_clock.percentile(50)
    table = [
        ("decision p50, us", f"{p50:.1f}", f"{bert_p50:,.0f}"),
        ("decision p99, us", f"{p99:.1f}", f"{bert_clock.percentile(99):,.0f}"),
        ("decision by advantage p50, us", f"{advantage_us:.1f}", ""),
        ("features alone p50, us", f"{features_us:.1f}", ""),
        ("torch MLP, same features, p50, us", "", f"{torch_p50:.1f}"),
        ("torch MLP, ratio", f"{against_torch.wall_ratio:.2f}", ""),
    ]
    publish(
        "router",
        "BERT-size query classifier",
        against_bert.wall_ratio,
        table,
        p50_us=p50,
        p99_us=p99,
        advantage_p50_us=advantage_us,
        features_p50_us=features_us,
        reference_p50_us=bert_p50,
        reference_parameters=parameters,
        torch_p50_us=torch_p50,
        torch_ratio=against_torch.wall_ratio,
        decisions=len(ours.seconds),
        candidates=CANDIDATES,
        repeats=repeats,
    )


def only_features(context: StepContext, answer: Answer) -> object:
    """The part of a decision that computes features."""
    return features(StepBatch.of_step(answer, context))


def decider(model: RouterModel) -> Callable[[StepContext, Answer], Decision]:
    """The call of an agent at a step."""
    return build_router("r2v", 0.5, RouterModels({("r2v", 0): model})).decide


def torch_router(model: RouterModel) -> Callable[[StepContext, Answer], float]:
    """The same features through the same heads as torch modules, each of them a plain
    Sequential.
    """
    import torch
    from torch import nn

    def sequential(name: str) -> Any:
        parts: list[Any] = []
        for weight, bias in model.heads[name].layers:
            layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=torch.float64)
            layer.weight.data = torch.from_numpy(weight)
            layer.bias.data = torch.from_numpy(bias)
            parts += [layer, nn.SiLU()]
        return nn.Sequential(*parts[:-1]).eval()

    by_advantage = model.score == "advantage"
    estimates = [sequential(name) for name in (ESTIMATES if by_advantage else RISKS)]
    outputs = [sequential(name) for name in (("gain", "saving") if by_advantage else ("policy",))]
    effect_columns = [FEATURE_NAMES.index(name) for name in EFFECT_FEATURES]
    columns = effect_columns if by_advantage else slice(None)
    scale = model.scaler
    mean_F, std_F = torch.from_numpy(scale.mean_F), torch.from_numpy(scale.std_F)
    low_F, high_F = torch.from_numpy(scale.low_F), torch.from_numpy(scale.high_F)

    @torch.inference_mode()
    def score(context: StepContext, answer: Answer) -> float:
        raw_NF = torch.from_numpy(features(StepBatch.of_step(answer, context)))
        f_NF = (torch.clamp(raw_NF, low_F, high_F) - mean_F) / std_F
        risks = [torch.sigmoid(estimate(f_NF)) for estimate in estimates]
        inputs = torch.cat([*risks, f_NF[:, columns]], dim=1)
        values = [float(output(inputs)) for output in outputs]
        if not by_advantage:
            return 1 / (1 + math.exp(-values[0]))
        gain, saving = values
        dissent = float(risks[-1])
        return dissent * max(gain, LEAST_GAIN) / max(1 - dissent * saving, LEAST_COST)

    return score


def query_classifier(layers: int) -> tuple[Decide, int]:
    """BERT-base as a classifier, randomly initialised, on made-up token ids: tokenising is not
    counted. Also its parameters.
    """
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    bert: Any = BertForSequenceClassification(
        BertConfig(num_labels=2, num_hidden_layers=layers)
    ).eval()
    tokens = iter(torch.randint(1000, 30000, (10_000, 1, QUERY_TOKENS)))

    @torch.inference_mode()
    def classify(context: StepContext, answer: Answer) -> bool:
        return bool(bert(input_ids=next(tokens)).logits.argmax())

    return classify, sum(p.numel() for p in bert.parameters())


def check_equal(
    decide: Callable[[StepContext, Answer], Any],
    by_torch: Callable[[StepContext, Answer], float],
    steps: Sequence[LiveStep],
) -> None:
    """Raises Mismatch unless both sides give every step the same score."""
    for number, (context, answer) in enumerate(steps):
        ours = decide(context, answer).score
        theirs = by_torch(context, answer)
        if abs(ours - theirs) > TOLERANCE:
            raise Mismatch(f"score of step {number}: ours {ours!r}, reference {theirs!r}")


def typical(decide: Decide, steps: Sequence[LiveStep]) -> float:
    """Microseconds of a call, median."""
    clock = Clock([])
    for _ in range(3):
        clock.run(decide, steps)
    return clock.percentile(50)


if __name__ == "__main__":
    main()
