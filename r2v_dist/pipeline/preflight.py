"""What a run is refused for before anything is started. Imports neither ray nor torch, so that
`--dry-run` is instant.
"""

import difflib
import importlib.util
import socket
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from r2v_dist.config.cluster import ClusterConfig
from r2v_dist.config.models import ModelConfig
from r2v_dist.config.places import require_writable
from r2v_dist.config.run import RunConfig
from r2v_dist.config.simulated import SimulatedConfig
from r2v_dist.errors import RuntimeFailure, UsageError
from r2v_dist.object_storage.mirror import shown
from r2v_dist.pipeline.chat_check import check_chat
from r2v_dist.pipeline.package_check import check_packages
from r2v_dist.pipeline.this_machine import (
    available_gib,
    free_disk_gib,
    needed_disk_gib,
    no_room_here,
    problem_here,
    roles,
)
from r2v_dist.pretrained.places import model_path


def check(config: RunConfig) -> None:
    """Refuse a run that cannot succeed here, before anything is started.

    Raises UsageError for what the user can correct, RuntimeFailure for what is missing on the
    machine.
    """
    from envs.tasks import check_tasks

    check_places(config)
    check_tasks(config.env, config.seed, config.sandbox)
    for role, model in _models(config):
        _check_model(role, model)
    if not config.cluster.address and (problem := problem_here(config)):
        raise UsageError(problem)
    _require_memory(config.cluster)
    free_gib, needed_gib = free_disk_gib(config.run_dir), needed_disk_gib(config)
    if free_gib < needed_gib and not _has_checkpoints(config.run_dir):
        raise RuntimeFailure(
            f"run_dir = {shown(config.run_dir)}: {free_gib:.1f} GiB of disk are free there, and "
            f"checkpoints and episodes take {needed_gib:.1f}; choose another run_dir"
        )
    # Last, because a tokenizer takes seconds to load.
    for role, model in roles(config):
        check_chat(role, model)


def check_places(config: RunConfig) -> None:
    """The part of `check` that takes no time, so that `--dry-run` can tell it. Raises UsageError
    where a package, a run directory that can be written, or a model's folder is missing.
    """
    check_packages(config.cluster)
    require_writable(config.run_dir, "run_dir")
    if config.verifier is not None and config.verifier.model:
        _check_folder("verifier.model", config.verifier.model)
    for role, model in _models(config):
        if model.backend == "vllm":
            _check_folder(f"{role}.model", model.model)


def _models(config: RunConfig) -> list[tuple[str, ModelConfig]]:
    """The models of both roles, and the verifier's judge where there is one."""
    judge = None if config.verifier is None else config.verifier.judge
    return [*roles(config), *([] if judge is None else [("verifier.judge", judge)])]


def check_environment(config: RunConfig) -> None:
    """Raises UsageError where `env.kind` names no environment that can be loaded, or one without
    the rules that `verifier` asks for.
    """
    from envs.registry import environment

    spec = environment(config.env.kind)
    asks_rules = config.verifier is not None and config.verifier.kind == "rules"
    if asks_rules and spec.rules is None:
        raise UsageError(
            f"verifier.kind = rules: there are none for {config.env.kind}; use trained or judge"
        )


def check_operators(config: RunConfig) -> None:
    """Raises UsageError, with the nearest name, where a rate is given to an operator that does not
    exist.
    """
    if not config.perturb.rates:
        return
    # Not where no rate is given: it takes a moment.
    from envs.perturbation.operators import OPERATORS

    for name in config.perturb.rates:
        if name not in OPERATORS:
            near = difflib.get_close_matches(name, OPERATORS, n=1, cutoff=0.0)[0]
            raise UsageError(
                f"perturb.rates: unknown operator {name}; did you mean {near}? There are "
                f"{', '.join(OPERATORS)}"
            )


def _check_folder(key: str, model: str) -> None:
    looks_local = model.startswith((".", "/", "~", "models/", "runs/"))
    if not model_path(model, key).is_dir() and looks_local:
        raise UsageError(
            f"{key} = {model}: no such directory; give a Hugging Face directory, a hub id, a name "
            f"that `r2v models list` shows, or `scratch`"
        )


def _check_model(role: str, model: ModelConfig) -> None:
    if model.backend == "vllm" and importlib.util.find_spec("vllm") is None:
        raise RuntimeFailure(
            f"{role}.backend = vllm: vLLM is not installed; run `make setup`, or install the "
            f"extra [gpu] on a CUDA machine"
        )
    if model.backend == "openai":
        # Not where there is no endpoint: it takes a moment.
        from actors.language_models.endpoint import Endpoint

        # Refuses keys, proxies and certificates that no client takes.
        Endpoint(model, role, attempts=1, backoff_s=1.0)
        _check_endpoint(role, model.base_url)


def _check_endpoint(role: str, base_url: str) -> None:
    url = urlsplit(base_url)
    if url.scheme in getproxies() and not proxy_bypass(url.hostname or ""):
        return  # only the proxy has to be reached, which may know more than this machine
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        socket.create_connection((url.hostname or "", port), timeout=5.0).close()
    except (OSError, UnicodeError) as error:
        raise RuntimeFailure(
            f"{role}.base_url = {base_url}: cannot be reached ({error}); start the "
            f"endpoint or correct the address"
        ) from None


def _has_checkpoints(run_dir: Path) -> bool:
    """Whether a run is continued, which holds some of what it takes."""
    return (run_dir / "checkpoints").is_dir()


def check_simulated(config: SimulatedConfig) -> None:
    """Refuse a run that cannot succeed here. Raises UsageError or RuntimeFailure."""
    require_writable(config.run_dir, "run_dir")
    if problem := no_room_here(config):
        raise UsageError(problem)
    _require_memory(config.cluster)


def _require_memory(cluster: ClusterConfig) -> None:
    """Raises RuntimeFailure where this machine, if it is the one that is used, lacks memory."""
    available = available_gib()
    if not cluster.address and available < cluster.memory_gib:
        raise RuntimeFailure(
            f"cluster.memory_gib = {cluster.memory_gib:g}: only {available:.1f} GiB of memory are "
            f"available; close something, or lower the key if you know better"
        )
