"""The benchmark's claims, on exact values: near the best router there is, and worse in the tail without CVaR."""

from pathlib import Path

import pytest

from benchmarks.simulated_benchmark import draw, evaluate, job_of, load_simulated
from envs.simulated_exact import Exact
from envs.simulated_world import World
from learners.router import train_routers

CONFIG = Path(__file__).parents[2] / "configs" / "simulated.yaml"


@pytest.mark.slow
def test_near_the_optimum_with_cvar_and_worse_in_the_tail_without(ray_session: None, tmp_path: Path) -> None:
    config = load_simulated(CONFIG).model_copy(update={"run_dir": tmp_path, "routers": ("r2v", "r2v_no_cvar")})
    draw(config)
    results = train_routers([job_of(config, name) for name in config.routers])
    report = evaluate(config, Exact(World()), dict(zip(config.routers, results, strict=True)))
    r2v, without = report.row("r2v"), report.row("r2v_no_cvar")
    assert r2v.cvar <= config.router.epsilon + 0.005
    assert r2v.cost <= 1.02 * report.optimum
    assert r2v.best_cost is not None
    assert r2v.cost <= 1.02 * r2v.best_cost
    assert without.cvar > config.router.epsilon + 0.05
    assert report.cvar_gain is not None
    assert report.cvar_gain[1] > 0
