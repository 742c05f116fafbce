"""What the SLM gained without a teacher's help: from DPO, and from the verifier's choice; paired by
task and seed on the test split.
"""

from dataclasses import dataclass

import numpy as np

from r2v_dist.config.run import RunConfig
from r2v_dist.evaluation.outcomes import Array, arm_outcomes
from r2v_dist.evaluation.results import Findings
from r2v_dist.stats.bootstrap import task_bootstrap_interval
from r2v_dist.storage.run_dir import RunDir, stage_name


@dataclass(frozen=True)
class PolicyGain:
    """Success of one SLM-only policy minus another's, mean over training seeds; 95 % interval over
    whole tasks.
    """

    gain: str
    difference: float
    low: float
    high: float
    by_training_seed: tuple[float, ...]


def policy_gains(run: RunDir, config: RunConfig, findings: Findings) -> list[PolicyGain]:
    """Every pair of policies that the run has played: those of DPO need a run with DPO, those of
    best of K a verifier.
    """
    successes: dict[tuple[str, str], list[Array]] = {}
    for seed_arms in findings.seeds:
        cloned = stage_name("cloned", seed_arms.training_seed)
        arms_by_policy = {
            "deployed": seed_arms.arms,
            "cloned": arm_outcomes(run.rollouts(cloned)) if run.manifest(cloned) else (),
        }
        for policy, arms in arms_by_policy.items():
            for arm in arms:
                if arm.name in ("slm_only", "best_of_k"):
                    successes.setdefault((policy, arm.name), []).append(arm.success_TZ)
    pairs = {
        "DPO, one sample": (("deployed", "slm_only"), ("cloned", "slm_only")),
        "DPO, best of K": (("deployed", "best_of_k"), ("cloned", "best_of_k")),
        "best of K, cloned": (("cloned", "best_of_k"), ("cloned", "slm_only")),
        "best of K, deployed": (("deployed", "best_of_k"), ("deployed", "slm_only")),
    }
    gains: list[PolicyGain] = []
    for name, (new, old) in pairs.items():
        if len(successes.get(new, ())) == len(successes.get(old, ())) == len(findings.seeds):
            gained_STZ = np.stack(successes[new]) - np.stack(successes[old])
            low, high = task_bootstrap_interval(
                gained_STZ.mean(axis=0), config.evaluate.bootstrap, config.seed
            )
            gains.append(
                PolicyGain(
                    name,
                    float(gained_STZ.mean()),
                    low,
                    high,
                    tuple(gained_STZ.mean(axis=(1, 2)).tolist()),
                )
            )
    return gains
