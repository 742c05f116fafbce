"""What a run asks for, beside what this machine has. Imports neither ray nor torch, so that
`--dry-run` is instant.
"""

import difflib
import importlib.util
import os
import shutil
import socket
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import psutil
import yaml

from cluster import resources
from cluster.placement import Node, misfit
from r2v_dist.config.cluster import ClusterConfig
from r2v_dist.config.models import ModelConfig, shown_address
from r2v_dist.config.places import require_writable
from r2v_dist.config.run import RunConfig
from r2v_dist.config.simulated import SimulatedConfig
from r2v_dist.errors import RuntimeFailure, UsageError
from r2v_dist.object_storage.mirror import shown
from r2v_dist.pipeline.chat_check import check_chat
from r2v_dist.pipeline.memory_plan import disk_gib
from r2v_dist.pipeline.package_check import check_packages
from r2v_dist.pretrained.catalogue import catalogue
from r2v_dist.pretrained.places import model_path

DISK_GIB = 2.0
"""Of a run, besides its checkpoints."""


def resource_plan(config: RunConfig) -> str:
    """A table: asked and available."""
    here = (
        ""
        if not config.cluster.address
        else f" (on this machine; the cluster at {config.cluster.address} may differ)"
    )
    rows = [
        *_executor_row(config),
        ("CPU cores", str(config.cluster.num_cpus or "all"), str(os.cpu_count())),
        ("memory", f"{config.cluster.memory_gib:.1f} GiB", f"{_available_gib():.1f} GiB"),
        ("disk", f"{_disk_gib(config):.1f} GiB", f"{_free_disk_gib(config.run_dir):.1f} GiB"),
        (
            "env runners",
            str(config.cluster.runners),
            f"{config.cluster.in_flight} units in flight on each",
        ),
        (
            "vLLM engines",
            str(sum(m.replicas for m in (config.slm, config.teacher) if m.backend == "vllm")),
            _available("vllm"),
        ),
        (
            "GPUs",
            f"{config.all_gpus:g}" if _may_use_gpus(config) else "0",
            f"cluster.gpus = {config.cluster.gpus}; a learner's rank takes a whole one",
        ),
        (
            "learner ranks",
            str(max(resources.ranks_of(config).values(), default=0)),
            "a core each, and a GPU each where models run on GPUs",
        ),
        *_sandbox_row(config),
        (
            "label branches",
            str(_label_branches(config)),
            "at most; they share what is known of their trees",
        ),
        (
            "test episodes",
            str(config.training_seeds * _test_episodes(config)),
            "live, before memoisation",
        ),
    ]
    lines = [f"# {'resource':<14} {'asked':>10}   available{here}"]
    lines += [f"# {name:<14} {asked:>10}   {available}" for name, asked, available in rows]
    if not config.cluster.address and (problem := _problem_here(config)):
        lines.append(f"# NO ROOM: {problem}")
    lines += [f"# {problem}" for problem in _not_fetched(config)]
    return "\n".join(lines)


def _not_fetched(config: RunConfig) -> list[str]:
    """What `check` would refuse about models of the catalogue."""
    models = [(r, m.model) for r, m in _roles(config) if m.backend == "vllm"]
    if config.verifier is not None:
        models.append(("verifier", config.verifier.model))
    lines = []
    for section, model in models:
        try:
            if model in catalogue():
                model_path(model, f"{section}.model")
        except UsageError as error:
            lines.append(str(error))
    return lines


def _roles(config: RunConfig) -> list[tuple[str, ModelConfig]]:
    return [("slm", config.slm), ("teacher", config.teacher)]


def _executor_row(config: RunConfig) -> list[tuple[str, str, str]]:
    if config.cluster.executor == "ray":
        return []
    return [("executor", "inline", "one process, without Ray")]


def _sandbox_row(config: RunConfig) -> list[tuple[str, str, str]]:
    from envs.registry import environment

    if not environment(config.env.kind).sandboxed:
        return []
    asked = "any" if config.sandbox.allow_weaker else "bubblewrap"
    return [
        (
            "sandbox",
            asked,
            "bubblewrap is installed" if shutil.which("bwrap") else "bubblewrap is NOT INSTALLED",
        )
    ]


def check(config: RunConfig) -> None:
    """Refuse a run that cannot succeed here, before anything is started.

    Raises UsageError for what the user can correct, RuntimeFailure for what is missing on the
    machine.
    """
    from envs.tasks import check_tasks

    check_packages(config.cluster)
    require_writable(config.run_dir, "run_dir")
    check_tasks(config.env, config.seed, config.sandbox)
    if config.verifier is not None and config.verifier.judge is not None:
        _check_model("verifier.judge", config.verifier.judge)
    if config.verifier is not None and config.verifier.model:
        _check_folder("verifier.model", config.verifier.model)
    for role, model in _roles(config):
        _check_model(role, model)
    if not config.cluster.address and (problem := _problem_here(config)):
        raise UsageError(problem)
    _require_memory(config.cluster)
    free, needed = _free_disk_gib(config.run_dir), _disk_gib(config)
    if free < needed and not _has_checkpoints(config.run_dir):
        raise RuntimeFailure(
            f"run_dir = {shown(config.run_dir)}: {free:.1f} GiB of disk are free there, and "
            f"checkpoints and episodes take {needed:.1f}; choose another run_dir"
        )
    # Last, because a tokenizer takes seconds to load.
    for role, model in _roles(config):
        check_chat(role, model)


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


def _problem_here(config: RunConfig) -> str | None:
    """What there is no room for on this machine."""
    on_gpus = _on_gpus(config)
    there = set(os.sched_getaffinity(0))
    for role, model in _roles(config):
        if model.backend == "vllm" and not on_gpus and model.cpu_cores:
            missing = sorted(_cores(model.cpu_cores) - there)
            if missing:
                return (
                    f"{role}.cpu_cores = {model.cpu_cores}: there is no core {missing[0]} here; "
                    f"there are {len(there)}, from {min(there)}"
                )
    return resources.placement_problem(config, [_this_machine(config.cluster)], on_gpus)


def _on_gpus(config: RunConfig) -> bool:
    return resources.on_gpus(config.cluster, [_this_machine(config.cluster)])


def _may_use_gpus(config: RunConfig) -> bool:
    """Also where a cluster decides, of which nothing is known here."""
    elsewhere = bool(config.cluster.address) and config.cluster.gpus == "auto"
    return elsewhere or _on_gpus(config)


def _this_machine(cluster: ClusterConfig) -> Node:
    return Node("this machine", cluster.num_cpus or os.cpu_count() or 1, local_gpus())


def _cores(text: str) -> set[int]:
    cores = set[int]()
    for part in text.split(","):
        first, _, last = part.partition("-")
        cores.update(range(int(first), int(last or first) + 1))
    return cores


def local_gpus() -> int:
    """GPUs of this machine that a process may use, without asking a driver."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    there = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
    if visible is None:
        return there
    named = [name for name in visible.split(",") if name.strip() not in ("", "-1")]
    return min(there, len(named))


def _check_folder(key: str, model: str) -> None:
    looks_local = model.startswith((".", "/", "~", "models/", "runs/"))
    if not model_path(model, key).is_dir() and looks_local:
        raise UsageError(
            f"{key} = {model}: no such directory; give a Hugging Face directory, a hub id, a name "
            f"that `r2v models list` shows, or `scratch`"
        )


def _check_model(role: str, model: ModelConfig) -> None:
    if model.backend == "vllm":
        if importlib.util.find_spec("vllm") is None:
            raise RuntimeFailure(
                f"{role}.backend = vllm: vLLM is not installed; run `make setup`, or install the "
                f"extra [gpu] on a CUDA machine"
            )
        _check_folder(f"{role}.model", model.model)
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
            f"{role}.base_url = {shown_address(base_url)}: cannot be reached ({error}); start the "
            f"endpoint or correct the address"
        ) from None


def _disk_gib(config: RunConfig) -> float:
    return DISK_GIB + disk_gib(config)


def _has_checkpoints(run_dir: Path) -> bool:
    """Whether a run is continued, which holds some of what it takes."""
    return (run_dir / "checkpoints").is_dir()


def _free_disk_gib(folder: Path) -> float:
    existing = next(
        parent
        for parent in (folder.absolute(), *folder.absolute().parents)
        if os.path.exists(parent)
    )
    return shutil.disk_usage(existing).free / 2**30


def _available(package: str) -> str:
    return "installed" if importlib.util.find_spec(package) else "NOT INSTALLED"


def _test_episodes(config: RunConfig) -> int:
    tasks = config.env.size("test")
    arms = 2 + len(config.swept) * len(config.evaluate.rates)
    return tasks * (config.perturb.test_seeds * arms + 2)


def _label_branches(config: RunConfig) -> int:
    """S, T1 and Tinf in both rounds, and pairs, were every episode to last to the limit."""
    if config.router is None:
        return 0
    labels = config.labels
    alone = labels.episodes(labels.tasks + labels.validation_tasks)
    first = 2 * labels.n * (labels.states + labels.validation_states) + alone * config.env.max_steps
    again = (1 + 2 * labels.n_unsure) * ((labels.states + 1) // 2) + (1 + 2 * labels.n) * (
        (labels.validation_states + 1) // 2
    )
    pairs = 2 * (labels.pairs + labels.pairs // 4)
    return config.training_seeds * (first + (again + pairs if labels.rounds == 2 else 0))


def simulated_plan(config: SimulatedConfig) -> str:
    """What `--dry-run` prints: the resolved configuration, then asked and available."""
    rows = [
        ("CPU cores", str(config.cluster.num_cpus or "all"), str(os.cpu_count())),
        ("memory", f"{config.cluster.memory_gib:.1f} GiB", f"{_available_gib():.1f} GiB"),
        (
            "learner ranks",
            str(config.router.deepspeed.ranks),
            f"for {len(config.routers)} routers, one after the other",
        ),
        (
            "episodes",
            str((config.train_tasks + config.validation_tasks + config.test_tasks) * config.seeds),
            "simulated, in seconds",
        ),
    ]
    lines = [
        f"# {'resource':<14} {'asked':>10}   available",
        *(f"# {name:<14} {asked:>10}   {there}" for name, asked, there in rows),
    ]
    if problem := _no_room_here(config):
        lines.append(f"# NO ROOM: {problem}")
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False) + "\n".join(lines)


def check_simulated(config: SimulatedConfig) -> None:
    """Refuse a run that cannot succeed here. Raises UsageError or RuntimeFailure."""
    require_writable(config.run_dir, "run_dir")
    if problem := _no_room_here(config):
        raise UsageError(problem)
    _require_memory(config.cluster)


def _no_room_here(config: SimulatedConfig) -> str | None:
    """What there is no room for on this machine. One rank needs none: it is the run's
    own process.
    """
    ranks = config.router.deepspeed.ranks
    if config.cluster.address or ranks == 1:
        return None
    asked = resources.rank_bundle("router", ranks, gpus=False)
    problem = misfit([asked], [_this_machine(config.cluster)])
    return f"{problem}; {resources.fix(config.cluster, gpus=False)}" if problem else None


def _require_memory(cluster: ClusterConfig) -> None:
    """Raises RuntimeFailure where this machine, if it is the one that is used, lacks memory."""
    available = _available_gib()
    if not cluster.address and available < cluster.memory_gib:
        raise RuntimeFailure(
            f"cluster.memory_gib = {cluster.memory_gib:g}: only {available:.1f} GiB of memory are "
            f"available; close something, or lower the key if you know better"
        )


def _available_gib() -> float:
    return float(psutil.virtual_memory().available) / 2**30
