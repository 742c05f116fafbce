"""`r2v serve`: where a run's models, its router and the gateway meet.

Nothing of the run directory changes but its folder `gateway/`; engines run under Ray, and where
both sides are endpoints and no verifier was trained there is no Ray at all.
"""

import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r2v_dist import files
from r2v_dist.config.base import validate
from r2v_dist.config.models import ModelConfig
from r2v_dist.config.run import RunConfig, load_config
from r2v_dist.config.yaml_file import read_mapping
from r2v_dist.errors import UsageError
from r2v_dist.object_storage.mirror import shown
from r2v_dist.pipeline.served_models import Calls, decode_of, engines, sides
from r2v_dist.pipeline.served_policy import deployed, policy_of, training_drift
from r2v_dist.pipeline.steps.router import hysteresis_of
from r2v_dist.serving.access import Access, is_loopback
from r2v_dist.serving.app import GatewayApp, make_app
from r2v_dist.serving.gateway import Gateway
from r2v_dist.serving.log import RequestLog, flushing
from r2v_dist.serving.observing import Observing
from r2v_dist.serving.policy import Policy
from r2v_dist.serving.recovery import take_up
from r2v_dist.serving.server import settle
from r2v_dist.serving.watch import Watch
from r2v_dist.storage.checkpoints import Checkpoint
from r2v_dist.storage.run_dir import RunDir, open_run

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from r2v_dist.serving.tracing import Tracing

_PLANNERS = {
    "expert": "the environment's own planner, which reads hidden state that no agent outside shows",
    "simulated": "simulated",
}


@dataclass(frozen=True)
class ServedRun:
    """A run that can be served: what is asked of it was checked, and nothing is started."""

    run: RunDir
    config: RunConfig
    policy: Policy
    slm: Checkpoint
    verifier: Checkpoint | None
    departures: tuple[str, ...]
    """In what the served models differ from the run's."""

    @property
    def needs_ray(self) -> bool:
        """Whether engines or scorers are started."""
        config = self.config
        has_scorers = config.verifier is not None and config.verifier.kind == "trained"
        return has_scorers or "vllm" in (config.slm.backend, config.teacher.backend)


def served_run(root: Path, overrides: list[str]) -> ServedRun:
    """The run to be served. Raises UsageError where it cannot be."""
    run, run_config = open_run(root)
    path = root / "config.yaml"
    rest = [override for override in overrides if not override.startswith("slm.")]
    config = load_config(path, rest)
    if len(rest) < len(overrides):
        # Whether an SLM can be trained is no question any more, so the section stands alone.
        section = read_mapping(path, overrides)["slm"]
        config = config.model_copy(update={"slm": validate(ModelConfig, section, path)})
    for role, model in (("slm", config.slm), ("teacher", config.teacher)):
        if model.backend in _PLANNERS:
            raise UsageError(
                f"{shown(root)}: {role}.backend = {model.backend} is {_PLANNERS[model.backend]}, "
                f"so it cannot answer an agent; give another {role}, for example "
                f"{role}.backend=openai {role}.model=NAME {role}.base_url=http://127.0.0.1:8000/v1"
            )
    _require_its_score(run_config, config)
    hysteresis_by_router = hysteresis_of(config)
    # Episodes of an evaluation have no clock, so caches did not expire in them.
    expires = any(hysteresis.cache_s is not None for hysteresis in hysteresis_by_router.values())
    held_as_evaluated = hysteresis_by_router == hysteresis_of(run_config) and not expires
    # What the run has is told by its own configuration, whoever answers now.
    own_config = run_config.model_copy(update={"serve": config.serve, "router": config.router})
    policy = policy_of(run, own_config, held_as_evaluated)
    departures = tuple(
        name
        for name, before, now in (
            ("slm", run_config.slm.content(), config.slm.content()),
            ("teacher", run_config.teacher.content(), config.teacher.content()),
        )
        if before != now
    )
    if not held_as_evaluated:
        departures = (*departures, "hysteresis")
    slm = _slm_of(run, own_config, config.slm)
    return ServedRun(run, config, policy, slm, _verifier_of(run, own_config), departures)


def _require_its_score(run_config: RunConfig, config: RunConfig) -> None:
    """Raises UsageError for another score than the one with which thresholds were chosen."""
    if run_config.router is None or config.router is None:
        return
    given, trained = config.router.score, run_config.router.score
    if given != trained:
        raise UsageError(
            f"router.score = {given}: thresholds belong to a score, and those of this run were "
            f"chosen with {trained}; leave it out, or run `r2v run` with router.score={given} and "
            f"a run_dir of its own"
        )


def _slm_of(run: RunDir, own_config: RunConfig, model: ModelConfig) -> Checkpoint:
    """The SLM that answers: the run's own, or another that was named. The tokenizer of the run's
    own stays, as a trained verifier reads with it."""
    checkpoint = deployed(run, own_config, "slm")
    if model.backend == "openai":
        return Checkpoint(checkpoint.path if checkpoint else "", model.model)
    is_own_model = (model.backend, model.model) == (own_config.slm.backend, own_config.slm.model)
    return checkpoint if checkpoint and is_own_model else _named_slm(model)


def _named_slm(model: ModelConfig) -> Checkpoint:
    from r2v_dist.pretrained.places import model_path
    from r2v_dist.storage.model_identity import checkpoint_version

    folder = model_path(model.model, "slm.model").resolve()
    return Checkpoint(str(folder), checkpoint_version("base", folder))


def _verifier_of(run: RunDir, config: RunConfig) -> Checkpoint | None:
    if config.verifier is None:
        return None
    if config.verifier.kind == "trained":
        return deployed(run, config, "verifier")
    return Checkpoint("", config.verifier.version)


def access_of(config: RunConfig, host: str) -> Access:
    """Who may ask, by the environment's keys."""
    keys = tuple(filter(None, os.environ.get(config.serve.keys_env, "").split(",")))
    admins = tuple(filter(None, os.environ.get(config.serve.admin_keys_env, "").split(",")))
    groups = [tuple(key.strip() for key in group) for group in (keys, admins)]
    return Access(groups[0], groups[1], is_loopback(host))


@contextlib.contextmanager
def started(served: ServedRun, access: Access) -> "Iterator[tuple[Starlette, GatewayApp]]":
    """The application, with engines and scorers up while the block runs."""
    with engines(served, under_ray=False) as calls:
        yield application(served, access, calls)


def application(served: ServedRun, access: Access, calls: Calls) -> "tuple[Starlette, GatewayApp]":
    """The application in front of models that are up. What it opens is closed when it ends."""
    config = served.config
    slm, teacher, upstream = sides(served, calls)
    gateway = Gateway(
        slm,
        teacher,
        served.policy,
        config.serve,
        _max_steps(served.run),
        decode_of(config, served.slm.path),
        tuple(name for name in served.departures if name != "teacher"),
    )
    app = GatewayApp(gateway, access)
    closing = contextlib.ExitStack()
    watch = Watch(gateway, training_drift(served.run, config, served.policy.router))
    gateway.listeners.append(watch.answered)
    app.failures.append(watch.failed)
    if config.serve.otel:
        tracing = closing.enter_context(_traced(gateway))
        gateway.listeners.append(tracing.answered)
        app.failures.append(tracing.failed)
    requests = served.run.root / "gateway" / "requests"
    log = _logged(requests, gateway, watch, closing) if config.serve.log else None
    observing = Observing(watch, access, log, requests)

    @contextlib.asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        with closing:
            async with upstream or contextlib.nullcontext(), flushing(log):
                settle()
                yield

    return make_app(app, lifespan, observing.routes), app


def _logged(
    folder: Path, gateway: Gateway, watch: Watch, closing: contextlib.ExitStack
) -> RequestLog:
    """The log of a gateway, which takes up what earlier gateways logged."""
    take_up(folder, gateway, watch)
    log = RequestLog(folder, gateway)
    gateway.listeners.append(log.answered)
    closing.callback(log.close)
    return log


@contextlib.contextmanager
def _traced(gateway: Gateway) -> "Iterator[Tracing]":
    """What makes spans; what is left of them goes out at the end."""
    from r2v_dist.serving.tracing import Tracing, provider_of_environment

    provider = provider_of_environment()
    try:
        yield Tracing(gateway, provider)
    finally:
        provider.shutdown()


def _max_steps(run: RunDir) -> int | None:
    """The step limit of the run's tasks; None where they have none."""
    path = run.root / "stages" / "tasks" / "tasks.json"
    rows = files.read_json(path) if path.is_file() else []
    limit = dict(rows[0].get("env_kwargs", ())).get("max_steps") if rows else None
    return None if limit is None else int(limit)
