"""The routers that a run trained, by training seed, and their risks of the SLM's own test steps."""

from dataclasses import dataclass

from r2v_dist.config.run import RunConfig
from r2v_dist.evaluation.risk_quality import AloneSteps, Array, risk_of
from r2v_dist.router.model import RouterModel
from r2v_dist.router.names import FORECASTING
from r2v_dist.storage.routers import load_router
from r2v_dist.storage.run_dir import Manifest, RunDir, stage_name


def evaluated(run: RunDir, config: RunConfig) -> list[int]:
    """Training seeds whose evaluation is complete."""
    return [
        s
        for s in range(config.training_seeds)
        if run.manifest(stage_name("evaluate", s)) is not None
    ]


def router_manifest(run: RunDir, config: RunConfig, training_seed: int = 0) -> Manifest | None:
    """The last stage of the router learner, None where none is complete."""
    if config.router is None:
        return None
    return run.manifest(
        stage_name("router2" if config.labels.rounds == 2 else "router", training_seed)
    )


def routers_of(run: RunDir, config: RunConfig, training_seed: int = 0) -> dict[str, RouterModel]:
    """The trained routers of a training seed."""
    manifests = [
        router_manifest(run, config, training_seed),
        *(run.manifest(stage_name(stage, training_seed)) for stage in ("regressions", "served")),
        _score_manifest(run, config, training_seed),
    ]
    paths: dict[str, str] = {}
    for manifest in manifests:
        paths |= manifest.results["routers"] if manifest else {}
    return {
        name: load_router(run, name, path)
        for name, path in paths.items()
        if (run.root / path).is_dir()
    }


def score_areas(run: RunDir, config: RunConfig, training_seed: int = 0) -> dict[str, float]:
    """The frontier areas by which validation chose r2v's score; empty where it did not."""
    manifest = _score_manifest(run, config, training_seed)
    return dict(manifest.results["areas"]) if manifest else {}


def _score_manifest(run: RunDir, config: RunConfig, training_seed: int) -> Manifest | None:
    """The choice of the score; what an earlier configuration chose is none."""
    return run.manifest(stage_name("score", training_seed)) if config.chooses_score else None


@dataclass(frozen=True)
class Forecasts:
    """Predicted risks of the SLM's own test steps, by router, for one training seed."""

    training_seed: int
    steps: AloneSteps
    rho: dict[str, Array]


def forecasts_of(run: RunDir, config: RunConfig, training_seed: int) -> Forecasts | None:
    """What the routers say of the SLM's own test steps. None where no router is trained or no step
    was taken.
    """
    models = {
        name: model
        for name, model in routers_of(run, config, training_seed).items()
        if name in FORECASTING
    }
    if not models:
        return None
    steps = AloneSteps.read(
        run.rollouts(stage_name("evaluate", training_seed)),
        config.slm_only_router,
        config.env.max_steps,
    )
    if not len(steps.t_N):
        return None
    return Forecasts(
        training_seed, steps, {name: risk_of(name, model, steps) for name, model in models.items()}
    )
