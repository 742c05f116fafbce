"""What a run asks for, beside what this machine has, as `--dry-run` prints it. Imports neither ray
nor torch, so that it is instant.
"""

import importlib.util
import os
import shutil

import yaml

from cluster import resources
from r2v_dist.config.run import RunConfig
from r2v_dist.config.simulated import SimulatedConfig
from r2v_dist.errors import UsageError
from r2v_dist.pipeline.this_machine import (
    available_gib,
    free_disk_gib,
    needed_disk_gib,
    no_room_here,
    on_gpus,
    problem_here,
    roles,
)
from r2v_dist.pretrained.catalogue import catalogue
from r2v_dist.pretrained.places import model_path
from r2v_dist.router.names import BY_SCORE


def resource_plan(config: RunConfig) -> str:
    """A table: asked and available."""
    note = (
        ""
        if not config.cluster.address
        else f" (on this machine; the cluster at {config.cluster.address} may differ)"
    )
    rows = [
        *_executor_row(config),
        ("CPU cores", str(config.cluster.num_cpus or "all"), str(os.cpu_count())),
        ("memory", f"{config.cluster.memory_gib:.1f} GiB", f"{available_gib():.1f} GiB"),
        ("disk", f"{needed_disk_gib(config):.1f} GiB", f"{free_disk_gib(config.run_dir):.1f} GiB"),
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
        *_episode_rows(config),
    ]
    lines = [f"# {'resource':<14} {'asked':>10}   available{note}"]
    lines += [f"# {name:<14} {request:>10}   {available}" for name, request, available in rows]
    if not config.cluster.address and (problem := problem_here(config)):
        lines.append(f"# NO ROOM: {problem}")
    lines += [f"# {problem}" for problem in _not_fetched(config)]
    return "\n".join(lines)


def _not_fetched(config: RunConfig) -> list[str]:
    """What `check` would refuse about models of the catalogue."""
    models = [(r, m.model) for r, m in roles(config) if m.backend == "vllm"]
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


def _executor_row(config: RunConfig) -> list[tuple[str, str, str]]:
    if config.cluster.executor == "ray":
        return []
    return [("executor", "inline", "one process, without Ray")]


def _sandbox_row(config: RunConfig) -> list[tuple[str, str, str]]:
    from envs.registry import environment

    if not environment(config.env.kind).sandboxed:
        return []
    request = "any" if config.sandbox.allow_weaker else "bubblewrap"
    return [
        (
            "sandbox",
            request,
            "bubblewrap is installed" if shutil.which("bwrap") else "bubblewrap is NOT INSTALLED",
        )
    ]


def _episode_rows(config: RunConfig) -> list[tuple[str, str, str]]:
    """How much is played, at most."""
    return [
        (
            "label branches",
            str(_label_branches(config)),
            "at most; they share what is known of their trees",
        ),
        (
            "validation",
            str(config.training_seeds * _validation_episodes(config)),
            "episodes, live, before memoisation",
        ),
        (
            "test episodes",
            str(config.training_seeds * _test_episodes(config)),
            "live, before memoisation",
        ),
    ]


def _may_use_gpus(config: RunConfig) -> bool:
    """Also where a cluster decides, of which nothing is known here."""
    elsewhere = bool(config.cluster.address) and config.cluster.gpus == "auto"
    return elsewhere or on_gpus(config)


def _available(package: str) -> str:
    return "installed" if importlib.util.find_spec(package) else "NOT INSTALLED"


def _test_episodes(config: RunConfig) -> int:
    tasks = config.env.size("test")
    arms = 2 + len(config.swept) * len(config.evaluate.rates)
    return tasks * (config.perturb.test_seeds * arms + 2)


def _validation_episodes(config: RunConfig) -> int:
    """For thresholds, and for the score where it is chosen too."""
    tasks = config.env.size("validation")
    rates = len(config.evaluate.rates)
    arms = 2 + len(config.swept) * (1 + rates)
    if config.chooses_score:
        arms += 2 + len(BY_SCORE) * (1 + rates)
    return tasks * (config.perturb.validation_seeds * arms + 2)


def _label_branches(config: RunConfig) -> int:
    """S, T1 and Tinf in both rounds, and pairs, were every episode to last to the limit."""
    if config.router is None:
        return 0
    labels = config.labels
    slm_only_episodes = labels.episodes(labels.tasks + labels.validation_tasks)
    first = (
        2 * labels.n * (labels.states + labels.validation_states)
        + slm_only_episodes * config.env.max_steps
    )
    again = (1 + 2 * labels.n_unsure) * ((labels.states + 1) // 2) + (1 + 2 * labels.n) * (
        (labels.validation_states + 1) // 2
    )
    pairs = 2 * (labels.pairs + labels.pairs // 4)
    return config.training_seeds * (first + (again + pairs if labels.rounds == 2 else 0))


def simulated_plan(config: SimulatedConfig) -> str:
    """What `--dry-run` prints: the resolved configuration, then asked and available."""
    rows = [
        ("CPU cores", str(config.cluster.num_cpus or "all"), str(os.cpu_count())),
        ("memory", f"{config.cluster.memory_gib:.1f} GiB", f"{available_gib():.1f} GiB"),
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
        *(f"# {name:<14} {request:>10}   {available}" for name, request, available in rows),
    ]
    if problem := no_room_here(config):
        lines.append(f"# NO ROOM: {problem}")
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False) + "\n".join(lines)
