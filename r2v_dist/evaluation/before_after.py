"""What training changed: success without the teacher, before and after, on the same tasks and
seeds.
"""

from dataclasses import asdict
from typing import Any

from r2v_dist.config.run import RunConfig
from r2v_dist.evaluation.outcomes import RouterRow, arm_outcomes, router_rows
from r2v_dist.evaluation.results import Findings
from r2v_dist.storage.run_dir import RunDir, stage_name


def changed_by_training(run: RunDir, config: RunConfig, findings: Findings) -> list[dict[str, Any]]:
    """On validation tasks before and after training; on test tasks before and after DPO. Empty
    where nothing was trained.
    """
    if config.slm.backend != "vllm" or config.bc is None:
        return []
    policy = "after DPO" if config.dpo is not None else "after behaviour cloning"
    table: list[dict[str, Any]] = []
    for label, stage in (
        ("base model, validation", "baseline"),
        (f"{policy}, validation", "validate"),
        ("before DPO, test", "cloned"),
    ):
        for training_seed in range(config.training_seeds):
            name = stage_name(stage, training_seed)
            if run.manifest(name) is not None:
                for clean in (True, False):
                    table += _rows(run, config, name, label, training_seed, clean)
    if config.dpo is not None:
        table += [
            _entry(f"{policy}, test", "perturbed", row, row.training_seed)
            for row in findings.perturbed
            if _alone(row)
        ]
    return table


def _rows(
    run: RunDir, config: RunConfig, stage: str, label: str, training_seed: int, clean: bool
) -> list[dict[str, Any]]:
    arms = [arm for arm in arm_outcomes(run.rollouts(stage), clean) if arm.threshold is None]
    rows = router_rows(arms, config.alpha, config.evaluate.bootstrap, config.seed)
    return [
        _entry(label, "clean" if clean else "perturbed", row, training_seed)
        for row in rows
        if _alone(row)
    ]


def _alone(row: RouterRow) -> bool:
    return row.threshold is None and row.name != "teacher_only"


def _entry(policy: str, kind: str, row: RouterRow, training_seed: int) -> dict[str, Any]:
    return {"policy": policy, "kind": kind} | asdict(row) | {"training_seed": training_seed}
