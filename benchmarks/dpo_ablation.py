"""What each term of the preference learner does: `python -m benchmarks.dpo_ablation --run
runs/full`.

From the pairs of a finished run, for each of its training seeds, DPO alone, with the consistency
term and with the likelihood of a+; all play the run's test tasks beside the cloned SLM and the
run's own DPO (all terms), by one sample and by the verifier's choice. Invariant: policies differ in
the terms of the loss alone; tasks, perturbation seeds and verifier are those of the run. What was
done stays in the run directory (`ablation-*`), so the command can be interrupted.
"""

import argparse
import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.harness import Mismatch
from r2v_dist.config.run import RunConfig
from r2v_dist.evaluation.outcomes import arm_outcomes
from r2v_dist.pipeline.context import Context
from r2v_dist.pipeline.services import Services
from r2v_dist.pipeline.steps import preference
from r2v_dist.pipeline.steps.evaluation import test_seeds
from r2v_dist.seeding import short_hash
from r2v_dist.stats.bootstrap import Array, task_bootstrap_interval
from r2v_dist.storage.checkpoints import Checkpoint
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
    run, config = open_run(args.run)
    names = [path.parent.name for path in (run.root / "stages").glob("*/manifest.json")]
    manifests = {name: manifest for name in names if (manifest := run.manifest(name)) is not None}
    if config.dpo is None or "evaluate" not in manifests:
        raise Mismatch(f"{args.run}: not a finished run with DPO; make one with `make demo`")
    found: dict[str, list[Policy]] = {}
    with run.lock(), contextlib.ExitStack() as stack:
        services = Services(config, run, stack)
        for seed in range(config.training_seeds):
            for name, policy in policies(config, run, services, manifests, seed):
                found.setdefault(name, []).append(policy)
    rows = [row(name, policies, found["BC"], config) for name, policies in found.items()]
    for values in rows:
        print("  ".join(str(value) for value in values.values()))
    print(
        json.dumps(
            {"name": "dpo_ablation", "training_seeds": config.training_seeds, "policies": rows}
        )
    )


def policies(
    config: RunConfig, run: RunDir, services: Services, manifests: dict[str, Manifest], seed: int
) -> Iterator[tuple[str, Policy]]:
    """Every policy of one training seed."""
    assert config.dpo is not None
    learned = manifests[stage_name("dpo", seed)].results
    yield (
        "BC",
        Policy(successes(run.rollouts(stage_name("cloned", seed))), learned["consistency_before"]),
    )
    for name, (c, s) in VARIANTS.items():
        dpo = config.dpo.model_copy(
            update={"beta_c": c * config.dpo.beta_c, "beta_s": s * config.dpo.beta_s}
        )
        changed = config.model_copy(update={"dpo": dpo})
        stage = stage_name(
            "ablation-" + "".join(letter if letter.isalnum() else "-" for letter in name.lower()),
            seed,
        )
        input_hash = short_hash(name, seed, manifests[stage_name("pairs", seed)].input_hash)
        context = Context(changed, run, services, stage, input_hash, manifests, seed)
        if (done := run.manifest(stage)) is None:
            run.begin(stage, input_hash)
            run.complete(stage, input_hash, 0.0, preference.dpo(context))
            done = run.manifest(stage)
        assert done is not None
        checkpoint = Checkpoint(
            str((run.root / done.results["checkpoint"]).resolve()), done.results["version"]
        )
        arm = context.deploy(policy=checkpoint)
        zs = test_seeds(context)
        context.roll_out(
            [
                context.unit(task, z, tuple(map(arm, ARMS)))
                for task in context.tasks("test")
                for z in zs
            ]
        )
        yield name, Policy(successes(run.rollouts(stage)), done.results["consistency_after"])
    yield (
        "all terms",
        Policy(successes(run.rollouts(stage_name("evaluate", seed))), learned["consistency_after"]),
    )


def successes(folder: Path) -> dict[str, Array]:
    """By arm."""
    return {arm.name: arm.success_TZ for arm in arm_outcomes(folder) if arm.name in ARMS}


def row(
    name: str, policies: list[Policy], cloned: list[Policy], config: RunConfig
) -> dict[str, object]:
    """Means over training seeds, with 95 % intervals over tasks; differences are paired by task and
    perturbation seed.
    """

    def mean(of: list[Policy], arm: str) -> Array:
        return np.asarray(np.mean([policy.outcomes[arm] for policy in of], axis=0))

    def told(values_TZ: Array) -> str:
        low, high = task_bootstrap_interval(values_TZ, config.evaluate.bootstrap, config.seed)
        return f"{values_TZ.mean():.3f} [{low:.3f}, {high:.3f}]"

    one, best = (mean(policies, arm) for arm in ARMS)
    divergences = [policy.divergence for policy in policies if policy.divergence is not None]
    return {
        "policy": name,
        "one_sample": told(one),
        "best_of_k": told(best),
        "best_minus_one": told(best - one),
        "one_sample_minus_bc": told(one - mean(cloned, "slm_only")),
        "divergence": round(float(np.mean(divergences)), 5) if divergences else None,
    }


if __name__ == "__main__":
    main()
