"""The effect of each term of the preference learner: `python -m benchmarks.dpo_ablation --run
runs/full`.

From the pairs of a finished run it trains, for each training seed of the run, DPO alone, with the
consistency term, and with the likelihood of a+. These policies, the cloned SLM and the run's DPO
policy (all terms) play the run's test tasks by one sample and by the verifier's choice. Invariant:
policies differ in the terms of the loss alone; tasks, perturbation seeds and verifier are those of
the run. Results stay in the run directory (`ablation-*`), so the command can be interrupted.
"""

import argparse
import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.finished_run import complete_stages
from benchmarks.harness import Mismatch
from r2v_dist.config.run import RunConfig
from r2v_dist.evaluation.outcomes import arm_outcomes
from r2v_dist.pipeline.context import Context
from r2v_dist.pipeline.services import Services
from r2v_dist.pipeline.steps import preference
from r2v_dist.pipeline.steps.evaluation import test_seeds
from r2v_dist.seeding import short_hash
from r2v_dist.stats.bootstrap import Array, task_bootstrap_interval
from r2v_dist.storage.checkpoints import published
from r2v_dist.storage.run_dir import Manifest, RunDir, open_run, stage_name

VARIANTS = {
    "DPO": (0.0, 0.0),
    "DPO + consistency": (1.0, 0.0),
    "DPO + likelihood of a+": (0.0, 1.0),
}
"""Which of the run's weights beta_c and beta_s stay."""
ARMS = ("slm_only", "best_of_k")


@dataclass(frozen=True)
class Policy:
    """Success [tasks, perturbation seeds] of each arm, and the divergence between two views of a
    state.
    """

    outcomes: dict[str, Array]
    divergence: float | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--run", type=Path, default=Path("runs/full"), help="a finished run with DPO"
    )
    args = parser.parse_args()
    folder, config = open_run(args.run)
    manifests = complete_stages(folder)
    if config.dpo is None or "evaluate" not in manifests:
        raise Mismatch(f"{args.run}: not a finished run with DPO; make one with `make demo`")
    by_name: dict[str, list[Policy]] = {}
    with folder.lock(config.cluster.lease_s) as run, contextlib.ExitStack() as stack:
        services = Services(config, run, stack)
        for seed in range(config.training_seeds):
            for name, policy in policies(config, run, services, manifests, seed):
                by_name.setdefault(name, []).append(policy)
    rows = [row(name, by_seed, by_name["BC"], config) for name, by_seed in by_name.items()]
    for values in rows:
        print(*values.values(), sep="  ")
    result = {"name": "dpo_ablation", "training_seeds": config.training_seeds, "policies": rows}
    print(json.dumps(result))


def policies(
    config: RunConfig, run: RunDir, services: Services, manifests: dict[str, Manifest], seed: int
) -> Iterator[tuple[str, Policy]]:
    """Every policy of one training seed."""
    assert config.dpo is not None
    learned = manifests[stage_name("dpo", seed)].results
    cloned = successes(run.rollouts(stage_name("cloned", seed)))
    yield "BC", Policy(cloned, learned["consistency_before"])
    for name, (keep_c, keep_s) in VARIANTS.items():
        weights = {"beta_c": keep_c * config.dpo.beta_c, "beta_s": keep_s * config.dpo.beta_s}
        changed = config.model_copy(update={"dpo": config.dpo.model_copy(update=weights)})
        input_hash = short_hash(name, seed, manifests[stage_name("pairs", seed)].input_hash)
        stage = stage_name(ablation_stage(name), seed)
        context = Context(changed, run, services, stage, input_hash, manifests, seed)
        learner = trained(context, stage, input_hash)
        play_test_tasks(context, learner)
        played = successes(run.rollouts(stage))
        yield name, Policy(played, learner.results["consistency_after"])
    evaluated = successes(run.rollouts(stage_name("evaluate", seed)))
    yield "all terms", Policy(evaluated, learned["consistency_after"])


def ablation_stage(variant: str) -> str:
    """The stage of a variant: its name in small letters, with hyphens for other characters."""
    letters = [letter if letter.isalnum() else "-" for letter in variant.lower()]
    return "ablation-" + "".join(letters)


def trained(context: Context, stage: str, input_hash: str) -> Manifest:
    """The complete stage of a variant, which is trained where it is not complete."""
    run = context.run
    if run.manifest(stage) is None:
        run.begin(stage, input_hash)
        run.complete(stage, input_hash, 0.0, preference.dpo(context))
    manifest = run.manifest(stage)
    assert manifest is not None
    return manifest


def play_test_tasks(context: Context, learner: Manifest) -> None:
    """Play every test task and seed by the trained policy."""
    folder = context.run.root / learner.results["checkpoint"]
    arm = context.deploy(policy=published(folder, learner.results["version"]))
    arms = tuple(map(arm, ARMS))
    seeds = test_seeds(context)
    units = []
    for task in context.tasks("test"):
        units += [context.unit(task, z, arms) for z in seeds]
    context.roll_out(units)


def successes(folder: Path) -> dict[str, Array]:
    """Success [tasks, perturbation seeds] of each arm."""
    return {arm.name: arm.success_TZ for arm in arm_outcomes(folder) if arm.name in ARMS}


def row(
    name: str, policies: list[Policy], cloned: list[Policy], config: RunConfig
) -> dict[str, object]:
    """Means over training seeds, with 95 % intervals over tasks; differences are paired by task and
    perturbation seed.
    """

    def mean(by_seed: list[Policy], arm: str) -> Array:
        return np.asarray(np.mean([policy.outcomes[arm] for policy in by_seed], axis=0))

    def shown(values_TZ: Array) -> str:
        low, high = task_bootstrap_interval(values_TZ, config.evaluate.bootstrap, config.seed)
        return f"{values_TZ.mean():.3f} [{low:.3f}, {high:.3f}]"

    one_sample = mean(policies, "slm_only")
    best = mean(policies, "best_of_k")
    divergences = [policy.divergence for policy in policies if policy.divergence is not None]
    return {
        "policy": name,
        "one_sample": shown(one_sample),
        "best_of_k": shown(best),
        "best_minus_one": shown(best - one_sample),
        "one_sample_minus_bc": shown(one_sample - mean(cloned, "slm_only")),
        "divergence": round(float(np.mean(divergences)), 5) if divergences else None,
    }


if __name__ == "__main__":
    main()
