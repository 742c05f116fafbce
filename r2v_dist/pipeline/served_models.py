"""The models behind a gateway: engines and scorers under Ray, and both sides as the gateway asks
them. Whoever holds `Calls` may ask, in this process or, as they can be pickled, in another.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r2v_dist.config.models import ModelConfig, read_key
from r2v_dist.config.run import RunConfig
from r2v_dist.language_model import LanguageModel, Sampling
from r2v_dist.pipeline.model_sources import for_engines
from r2v_dist.serving.sides import EndpointTeacher, EngineTeacher, Slm, Teacher
from r2v_dist.serving.upstream import Upstream
from r2v_dist.storage.checkpoints import Checkpoint
from r2v_dist.verifier.base import Verifier

if TYPE_CHECKING:
    from actors.verifier.client import ScorerHandle
    from actors.vllm.server_handle import EngineHandle
    from r2v_dist.pipeline.serving import ServedRun


@dataclass(frozen=True)
class Calls:
    """Ways to the engines of both sides and to the scorers; None and empty where there are none."""

    slm: "list[EngineHandle] | None" = None
    teacher: "list[EngineHandle] | None" = None
    scorers: "tuple[ScorerHandle, ...]" = ()


@contextlib.contextmanager
def engines(served: "ServedRun", under_ray: bool) -> Iterator[Calls]:
    """Engines and scorers that answer, while the block runs. `under_ray`: Ray is up all the same
    where the run needs none."""
    with contextlib.ExitStack() as stack:
        yield _engines(served, stack) if under_ray or served.needs_ray else Calls()


def sides(served: "ServedRun", calls: Calls) -> tuple[Slm, Teacher, Upstream | None]:
    """Both sides, and the way to a teacher that is an endpoint."""
    config = served.config
    slm = Slm(
        _model(config, "slm", calls.slm, served.slm.path),
        _sampling(config.slm),
        served.slm.version,
        _verifier(served, calls),
        config.slm.system_prompt,
    )
    if config.teacher.backend == "openai":
        key = read_key(config.teacher.api_key_env)
        upstream = Upstream(config.teacher.base_url, key, config.serve.upstream)
        return slm, EndpointTeacher(upstream, config.teacher, config.teacher.model), upstream
    folder = _teacher_folder(config)
    model = _model(config, "teacher", calls.teacher, folder)
    name = f"r2v/teacher:{Path(folder).name}"
    return slm, EngineTeacher(model, _sampling(config.teacher), name), None


def _sampling(model: ModelConfig) -> Sampling:
    settings = model.sampling
    return Sampling(settings.candidates, settings.temperature, settings.top_p, settings.max_tokens)


def _model(config: RunConfig, role: str, calls: Any, folder: str) -> LanguageModel:
    from actors.language_models.factory import build_model

    model = config.slm if role == "slm" else config.teacher
    return build_model(model, role, calls, folder, config.cluster.engine_start_deadline_s)


def decode_of(config: RunConfig, folder: str) -> Any:
    """What gives the SLM's ids as text; None for an endpoint, which tells no ids."""
    if config.slm.backend != "vllm":
        return None
    from actors.language_models.tokenizer import load_tokenizer

    return load_tokenizer(folder).decode  # type: ignore[attr-defined]


def _teacher_folder(config: RunConfig) -> str:
    from r2v_dist.pretrained.places import model_path

    return str(model_path(config.teacher.model, "teacher.model").resolve())


def _verifier(served: "ServedRun", calls: Calls) -> Verifier | None:
    from actors.env_runner import Deployment, verifier_of
    from envs.own import EnvSource

    config = served.config
    deployment = Deployment(
        config.verifier if served.verifier else None, list(calls.scorers) or None
    )
    return verifier_of(
        deployment,
        config.slm,
        served.slm.path,
        EnvSource.of(config.env.kind),
        config.sandbox,
        config.cluster.engine_start_deadline_s,
    )


def _engines(served: "ServedRun", stack: contextlib.ExitStack) -> Calls:
    """Start engines and scorers under Ray, and wait until they answer."""
    from actors.verifier.client import ScorerHandle
    from actors.verifier.server import start_verifier
    from actors.vllm.server_handle import ModelServer
    from cluster import resources
    from cluster.session import ray_session

    logs = served.run.root / "gateway" / "logs"
    stack.enter_context(ray_session(served.config.cluster, logs))
    config = resources.as_decided(served.config)
    resources.require_placement(config)
    servers: dict[str, ModelServer] = {}
    if config.slm.backend == "vllm":
        checkpoint = for_engines(served.slm, config)
        servers["slm"] = ModelServer(
            "slm", config.slm, checkpoint, config.cluster, adapter_rank=config.adapter_rank
        )
    if config.teacher.backend == "vllm":
        folder = _teacher_folder(config)
        checkpoint = Checkpoint(folder, "teacher")
        servers["teacher"] = ModelServer("teacher", config.teacher, checkpoint, config.cluster)
    scorers: tuple[ScorerHandle, ...] = ()
    verifier = served.verifier
    if verifier and config.verifier and config.verifier.kind == "trained":
        actors = start_verifier(verifier.path, verifier.version, config.verifier)
        scorers = tuple(ScorerHandle(actor) for actor in actors)
    for server in servers.values():
        stack.callback(server.stop_watch)
    for server in servers.values():
        server.wait()
    handles = {role: server.handles() for role, server in servers.items()}
    return Calls(handles.get("slm"), handles.get("teacher"), scorers)
