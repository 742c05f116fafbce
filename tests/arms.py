"""Arms of an evaluation, drawn instead of played."""

import numpy as np

from r2v_dist.evaluation.outcomes import ArmOutcomes

TASKS, SEEDS, STEPS = 14, 10, 8


def arm(
    name: str, threshold: float | None, success: float, share: float, rng: np.random.Generator
) -> ArmOutcomes:
    """An arm that escalates a share of its steps."""
    success_TZ = (rng.random((TASKS, SEEDS)) < success).astype(np.float64)
    calls_TZ = rng.binomial(STEPS, share, (TASKS, SEEDS)).astype(np.float64)
    tasks, zs = tuple(f"game{i:02d}" for i in range(TASKS)), tuple(range(SEEDS))
    return ArmOutcomes(
        name,
        threshold,
        0,
        "test",
        tasks,
        zs,
        success_TZ,
        calls_TZ,
        np.full((TASKS, SEEDS), float(STEPS)),
    )
