"""The policy that a finished run can serve: its routers, its versions, and its operating points
with the thresholds that validation and calibration chose.
"""

from pathlib import Path
from typing import Any

from r2v_dist import files
from r2v_dist.config.router import RouterConfig
from r2v_dist.config.run import RunConfig
from r2v_dist.errors import DamagedFile, UsageError
from r2v_dist.evaluation.certificate import certificate_of
from r2v_dist.evaluation.operating_points import Prices
from r2v_dist.labels.table import LabelTable
from r2v_dist.object_storage.mirror import shown
from r2v_dist.pipeline.stages import publisher
from r2v_dist.pipeline.steps.router import hysteresis_of, last_round, learner_stage
from r2v_dist.router.exploration import Exploration
from r2v_dist.router.names import BY_NAME, LEARNED, SERVED
from r2v_dist.router.registry import RouterModels
from r2v_dist.serving.drift import FeatureDrift
from r2v_dist.serving.policy import Point, Policy
from r2v_dist.stats.mixing import bayes_threshold
from r2v_dist.storage.checkpoints import Checkpoint, on_this_node, published
from r2v_dist.storage.routers import load_router
from r2v_dist.storage.run_dir import Manifest, RunDir, stage_name

_FROM_REPORT = ("budget", "expected_cost")
_ROW = {"kind", "training_seed", "threshold", "note", "cheap", "share"}
"""Keys of an operating point in a report's summary."""


def policy_of(run: RunDir, config: RunConfig, evaluated: bool = True) -> Policy:
    """The policy of a run, as `serve` in its configuration wants it. `evaluated`: with the
    hysteresis that it was evaluated with; without, nothing is certified. Raises UsageError where
    the run has none."""
    serve = config.serve
    validation = _manifest(run, "validate", serve.training_seed)
    if serve.router not in BY_NAME:
        raise UsageError(f"serve.router = {serve.router}: there is no such router")
    models, version = _models(run, config)
    threshold = validation.results["selected"].get(serve.router)
    if threshold is None and BY_NAME[serve.router].family != "end":
        names = ", ".join(validation.results["selected"])
        raise UsageError(
            f"serve.router = {serve.router}: this run chose no threshold for it; it has {names}"
        )
    points = [Point("selected", threshold, _why_selected(run, config, threshold))]
    if serve.router == "r2v":
        points += _further_points(run, config, models, evaluated)
    if serve.threshold is not None:
        points.append(Point("own", serve.threshold, "serve.threshold"))
    policy = Policy(
        serve.router,
        models,
        serve.training_seed,
        {point.name: point for point in points},
        serve.operating_point if serve.threshold is None else "own",
        version,
        exploration=_exploration(config, validation),
    )
    default = policy.points.get(policy.default)
    if default is None or default.problem:
        problem = default.problem if default else f"there are {', '.join(policy.points)}"
        raise UsageError(f"serve.operating_point = {serve.operating_point}: {problem}")
    if policy.exploration is not None and policy.design(default) is None:
        raise UsageError(
            f"serve.explore.rate = {serve.explore.rate:g}: {serve.operating_point} compares "
            f"another number than the score of {serve.router}; explore at selected"
        )
    return policy


def _why_selected(run: RunDir, config: RunConfig, threshold: float | None) -> str:
    """In the words of the report, where it has looked at this threshold."""
    if threshold is None:
        return f"{config.serve.router} compares nothing with a threshold"
    if config.serve.router == "r2v":
        for row in _rows_of(run.root / "report" / "summary.json"):
            if _is(row, "selected", config.serve.training_seed) and row["threshold"] == threshold:
                return str(row["note"])
    return "chosen on validation tasks"


def _exploration(config: RunConfig, validation: Manifest) -> Exploration | None:
    """What `serve.explore` asks for; None where nothing is explored."""
    explore = config.serve.explore
    if not explore.rate:
        return None
    router = config.serve.router
    info = BY_NAME[router]
    if info.family == "end" or info.play != "threshold":
        raise UsageError(
            f"serve.explore.rate = {explore.rate:g}: {router} does not compare a score with a "
            f"threshold at every step; set serve.explore.rate=0"
        )
    _refuse_unread(config, router)
    thresholds = explore.thresholds or tuple(validation.results["thresholds"].get(router, ()))
    if not thresholds:
        raise UsageError(
            f"serve.explore.thresholds: validation played no threshold of {router}; name some"
        )
    return Exploration(explore.rate, tuple(sorted(set(thresholds))), explore.seed)


def _refuse_unread(config: RunConfig, router: str) -> None:
    """Raises UsageError for an exploration that no estimate could use."""
    serve = config.serve
    setting = f"serve.explore.rate = {serve.explore.rate:g}"
    if serve.shadow:
        raise UsageError(
            f"{setting}: with serve.shadow = {serve.shadow} the router is only watched, so "
            "nothing is learned from other thresholds; set serve.explore.rate=0 or "
            "serve.shadow=null"
        )
    hysteresis = hysteresis_of(config).get(router)
    if hysteresis is not None and hysteresis.cold_token_price:
        raise UsageError(
            f"{setting}: with router.hysteresis.cold_token_price = "
            f"{hysteresis.cold_token_price:g} the lengths of prompts decide too, so no propensity "
            f"is known; set one of them to 0"
        )


def training_drift(run: RunDir, config: RunConfig, router: str) -> FeatureDrift | None:
    """Against the states that a router was trained on; None where there are none."""
    stage = "served" if router in SERVED else learner_stage(config)
    if stage is None or router not in LEARNED:
        return None
    name = stage_name(stage, config.serve.training_seed)
    path = run.root / "stages" / name / "train.arrow"
    model = _models(run, config)[0].trained.get((router, config.serve.training_seed))
    if model is None or not path.is_file():
        return None
    return FeatureDrift(LabelTable.load(path).features_NF, model.scaler)


def deployed(run: RunDir, config: RunConfig, part: Any) -> Checkpoint | None:
    """The SLM or the verifier that a run deploys; None where it trained none."""
    stage = publisher(config, part)
    if stage is None:
        return None
    results = _manifest(run, stage, config.serve.training_seed).results
    folder = on_this_node(run.root / results["checkpoint"])
    return published(folder, results["version"])


def _models(run: RunDir, config: RunConfig) -> tuple[RouterModels, str]:
    """The trained routers of a run, and the version of the one that is served."""
    serve = config.serve
    stage = last_round(config)
    if stage is None:
        return RouterModels(), serve.router
    paths = _manifest(run, stage, serve.training_seed).results["routers"]
    seed = serve.training_seed
    routers = {(name, seed): load_router(run, name, path) for name, path in paths.items()}
    model = routers.get((serve.router, seed))
    version = model.version if model is not None else serve.router
    return RouterModels(routers, hysteresis=hysteresis_of(config)), version


def _further_points(
    run: RunDir, config: RunConfig, models: RouterModels, evaluated: bool
) -> list[Point]:
    model = models.trained.get(("r2v", config.serve.training_seed))
    prices = Prices.of(config.router or RouterConfig())
    threshold = bayes_threshold(1.0, prices.slm, prices.failure)
    note = f"a failure costs {prices.failure:g} teacher calls; rho - rho1 is compared"
    single = "this router predicts no risk after one teacher step"
    problem = single if model is None or model.mode == "joint" else ""
    bayes = Point("bayes", threshold, note, rule=True, problem=problem)
    certified = _certified(run, config)
    if not evaluated:
        mismatch = "router.hysteresis is not the one that the run was evaluated with"
        certified = Point("certified", None, problem=mismatch)
    return [bayes, certified, *_of_report(run, config)]


def _certified(run: RunDir, config: RunConfig) -> Point:
    if config.serve.training_seed:
        return Point("certified", None, problem="the certificate is of training seed 0")
    try:
        certificate = certificate_of(run, config)
    except UsageError as error:
        return Point("certified", None, problem=str(error))
    threshold = certificate.certificate.threshold
    problem = certificate.words if threshold is None else ""
    return Point("certified", threshold, certificate.words, problem=problem)


def _of_report(run: RunDir, config: RunConfig) -> list[Point]:
    """The points that the report has computed from validation episodes. Raises DamagedFile."""
    path = run.root / "report" / "summary.json"
    rows = _rows_of(path)
    points = []
    for name in _FROM_REPORT:
        row = next((row for row in rows if _is(row, name, config.serve.training_seed)), None)
        if row is None:
            points.append(Point(name, None, problem=f"{path} has none; r2v report writes it"))
        elif row["threshold"] is None:
            points.append(Point(name, None, problem=row["note"]))
        else:
            point = Point(name, row["threshold"], row["note"], row["cheap"], row["share"])
            points.append(point)
    return points


def _rows_of(path: Path) -> list[dict[str, Any]]:
    """The operating points in a report's summary; none where there is none."""
    if not path.is_file():
        return []
    fix = "`r2v report` with the run directory writes it again"
    try:
        rows = files.read_json_object(path).get("operating_points") or []
    except DamagedFile as error:
        raise DamagedFile(path, error.problem, fix) from None
    if not isinstance(rows, list) or not all(
        isinstance(r, dict) and r.keys() >= _ROW for r in rows
    ):
        raise DamagedFile(path, f"has operating_points without {', '.join(sorted(_ROW))}", fix)
    return rows


def _is(row: dict[str, Any], name: str, training_seed: int) -> bool:
    return bool(row["kind"] == name and row["training_seed"] == training_seed)


def _manifest(run: RunDir, stage: str, training_seed: int) -> Manifest:
    name = stage_name(stage, training_seed)
    manifest = run.manifest(name)
    if manifest is None:
        raise UsageError(
            f"{shown(run.root)}: stage {name} is not complete, so there is nothing to serve; "
            f"`r2v run` finishes the run"
        )
    return manifest
