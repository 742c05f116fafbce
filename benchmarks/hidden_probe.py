"""Does the SLM's hidden state tell its failure better than the router's features?

    python -m benchmarks.hidden_probe RUN --vectors FOLDER [--minutes M]

RUN has the stages `visits` and `labels`, with a pretrained model as SLM. The labels are those that
the risk head of the first round learns from; a state's vector is the last layer's, at the last
token of the action that the SLM would take, or its mean over the action, whichever predicts better
on held-out training tasks. The same probe is fitted on the router's features, on the vectors and on
both. It is measured on the labelled states of validation tasks, and where RUN has the stage
`validate` also on every SLM-only step there, by the outcome of its episode.
Invariant: validation tasks are scored once, at the end, and no test task is read.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer

from benchmarks.harness import Mismatch
from benchmarks.hidden_states import Array, Reading, hidden_states
from benchmarks.probe_fit import Estimate, Labelled, Probe, auroc_estimates, fit
from r2v_dist.chat import ChatFormat, Turn
from r2v_dist.config.run import RunConfig
from r2v_dist.labels.states import State, states_of
from r2v_dist.labels.table import LabelTable
from r2v_dist.pipeline.served_policy import deployed
from r2v_dist.pretrained.places import model_path
from r2v_dist.router.features import FEATURE_NAMES
from r2v_dist.storage import rollouts as rollout_store
from r2v_dist.storage.run_dir import RunDir, open_run

LABELLED = "labelled validation states"
PLAYED = "SLM-only validation episodes"
PLACES = ("last token", "mean over the action")
FEATURES = "features"
_TOKENS = FEATURE_NAMES.index("context_tokens")


@dataclass(frozen=True)
class Step:
    """A labelled state: what the SLM saw and would do, and how often it then failed."""

    state: State
    reading: Reading
    failures: float
    n: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--vectors", type=Path, required=True, help="where hidden states are kept")
    parser.add_argument("--minutes", type=float, default=600.0, help="stop computing after this")
    parser.add_argument("--resamples", type=int, default=2000)
    args = parser.parse_args()
    run, config = open_run(args.run)
    model = slm_folder(run, config)
    chat = chat_of(config, model)
    train = labelled_steps(run, config, chat, "train")
    measured = {LABELLED: labelled_steps(run, config, chat, "validation")}
    if played := played_steps(run, config, chat):
        measured[PLAYED] = played
    readings = [step.reading for steps in (train, *measured.values()) for step in steps]
    vectors = hidden_states(model, readings, args.vectors, args.minutes * 60)
    if vectors is None:
        print("not all hidden states are there; the same command goes on")
        return
    held_out = {name: inputs(steps, vectors) for name, steps in measured.items()}
    publish(args.run, inputs(train, vectors), held_out, args.resamples, config.seed)


def slm_folder(run: RunDir, config: RunConfig) -> Path:
    """The SLM that the run deploys, as one folder that transformers loads."""
    if config.slm.backend != "vllm":
        raise Mismatch(f"{run.root}: slm.backend = {config.slm.backend}: it has no hidden states")
    trained = deployed(run, config, "slm")
    if trained is None:
        return model_path(config.slm.model, "slm.model").resolve()
    if trained.adapter:
        raise Mismatch(f"{run.root}: its SLM is an adapter, which is not merged here")
    return Path(trained.path)


def chat_of(config: RunConfig, model: Path) -> ChatFormat:
    """As the SLM's engine writes conversations."""
    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    return ChatFormat(tokenizer, "slm", config.slm.system_prompt, config.slm.chat_template_kwargs)


def visited(run: RunDir, config: RunConfig, stage: str) -> list[State]:
    """The states of a stage's episodes."""
    rows = rollout_store.read(run.rollouts(stage))
    return states_of(rows, config.env.max_steps, config.slm_only_router)


def labelled_steps(run: RunDir, config: RunConfig, chat: ChatFormat, split: str) -> list[Step]:
    """The states of a split that have an SLM-only outcome, with their ids."""
    labels = LabelTable.load(run.root / "stages" / "labels" / f"{split}.arrow")
    states = {state.key: state for state in visited(run, config, "visits")}
    keys = zip(labels.task, labels.z, labels.table["prefix"].to_pylist(), strict=True)
    steps = []
    for row, (task, z, prefix) in enumerate(keys):
        if labels.n[row]:
            state = states[f"{task}|{z}|{prefix}"]
            failures = float(labels.n[row] - labels.successes[row])
            steps.append(Step(state, reading_of(state, chat), failures, float(labels.n[row])))
    return steps


def played_steps(run: RunDir, config: RunConfig, chat: ChatFormat) -> list[Step]:
    """The SLM-only steps on validation tasks, each with the outcome of its episode."""
    steps = []
    for state in visited(run, config, "validate"):
        if state.own_success is not None and state.split == "validation":
            steps.append(Step(state, reading_of(state, chat), float(not state.own_success), 1.0))
    return steps


def reading_of(state: State, chat: ChatFormat) -> Reading:
    """The ids that the SLM read and sampled. Raises Mismatch where it had read another number."""
    prompt = chat.prompt(state.history, state.user)
    recorded = int(state.features[_TOKENS])
    if len(prompt) != recorded:
        raise Mismatch(f"{state.key}: the prompt has {len(prompt)} tokens, the SLM read {recorded}")
    acting = state.candidates[state.executed]
    action = chat.action_ids(Turn(state.user, acting.action, "slm", acting.action_ids))
    return Reading(state.policy, tuple(prompt), tuple(action))


def inputs(steps: Sequence[Step], vectors: dict[str, Array]) -> Labelled:
    """Three blocks: features, vector at the last token, mean vector."""
    both_N2D = np.stack([vectors[step.reading.key] for step in steps])
    return Labelled(
        (np.array([step.state.features for step in steps]), both_N2D[:, 0], both_N2D[:, 1]),
        np.array([step.failures for step in steps]),
        np.array([step.n for step in steps]),
        np.array([step.state.task for step in steps]),
    )


def publish(
    run: Path, train: Labelled, held_out: dict[str, Labelled], resamples: int, seed: int
) -> None:
    """Fit all, print a table for each set of states and then, as the last line, the result."""
    by_place = [fit(train.of_blocks(place), seed) for place in (1, 2)]
    chosen = int(np.argmin([probe.brier for probe in by_place]))
    blocks = {FEATURES: (0,), "hidden state": (chosen + 1,), "both": (0, chosen + 1)}
    probes = {name: fit(train.of_blocks(*places), seed) for name, places in blocks.items()}
    print(f"train: {described(train)}")
    print(f"hidden state: {PLACES[chosen]}, {train.blocks[chosen + 1].shape[1]} numbers")
    for name, probe in probes.items():
        penalties = ", ".join(f"{penalty:g}" for penalty in probe.penalties)
        print(f"  {name:<14}Brier score {probe.brier:.4f} on held-out tasks; penalties {penalties}")
    estimates = {}
    for label, states in held_out.items():
        scores = {name: probes[name](states.of_blocks(*blocks[name])) for name in blocks}
        estimates[label] = auroc_estimates(scores, states, FEATURES, resamples, seed)
        print(f"{label}: {described(states)}")
        for name, (own, beside) in estimates[label].items():
            print(f"  {name:<14}AUROC {shown(own)}; minus {FEATURES} {shown(beside, '+')}")
    result = {
        "name": "hidden_probe",
        "run": run.name,
        "hidden_state": PLACES[chosen],
        "train": sizes(train) | {"held_out_brier": briers(probes)},
        "penalties": {name: probe.penalties for name, probe in probes.items()},
        "held_out": {
            label: sizes(states) | {"auroc": aurocs(estimates[label])}
            for label, states in held_out.items()
        },
        "wins": estimates[LABELLED]["both"][1].low > 0,
    }
    print(json.dumps(result))


def briers(probes: dict[str, Probe]) -> dict[str, float]:
    """The scores by which penalties were chosen."""
    return {name: round(probe.brier, 4) for name, probe in probes.items()}


def aurocs(estimates: dict[str, tuple[Estimate, Estimate]]) -> dict[str, Any]:
    """By probe: value, low and high of AUROC, and of its difference to the features."""
    values = {}
    for name, (own, beside) in estimates.items():
        values[name] = {"value": _rounded(own), "minus_features": _rounded(beside)}
    return values


def sizes(states: Labelled) -> dict[str, Any]:
    """How many tasks and states there are, and which share of the outcomes are failures."""
    failed = float(states.failures_N.sum() / states.n_N.sum())
    tasks = len(np.unique(states.task_N))
    return {"tasks": tasks, "states": len(states.n_N), "failure_rate": round(failed, 4)}


def described(states: Labelled) -> str:
    """The sizes in words."""
    counted = sizes(states)
    share = f"{counted['failure_rate']:.1%} of the outcomes are failures"
    return f"{counted['states']} states of {counted['tasks']} tasks, {share}"


def shown(estimate: Estimate, sign: str = "") -> str:
    """`.731 [.652, .802]`."""
    value, low, high = (
        f"{number:{sign}.3f}" for number in (estimate.value, estimate.low, estimate.high)
    )
    return f"{value} [{low}, {high}]"


def _rounded(estimate: Estimate) -> list[float]:
    return [round(number, 4) for number in asdict(estimate).values()]


if __name__ == "__main__":
    main()
