"""What a run asks for, beside what this machine has. Imports neither ray nor torch, so that `--dry-run` is instant."""

import importlib.util
import os
import shutil
import socket
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from r2v_dist.chat_check import check_chat
from r2v_dist.config import RunConfig
from r2v_dist.errors import RuntimeFailure, UsageError
from r2v_dist.model_config import ModelConfig, read_key, shown_address

DISK_GIB = 2.0


def resource_plan(config: RunConfig) -> str:
    """A table: asked and available."""
    memory = psutil.virtual_memory()
    here = "" if not config.cluster.address else f" (on this machine; the cluster at {config.cluster.address} may differ)"
    rows = [
        ("CPU cores", str(config.cluster.num_cpus or "all"), str(os.cpu_count())),
        ("memory", f"{config.cluster.memory_gib:.1f} GiB", f"{memory.available / 2**30:.1f} GiB"),
        ("disk", f"{DISK_GIB:.1f} GiB", f"{_free_disk_gib(config.run_dir):.1f} GiB"),
        ("env runners", str(config.cluster.runners), f"{config.cluster.in_flight} units in flight on each"),
        ("vLLM engines", str(sum(m.backend == "vllm" for m in (config.slm, config.teacher))), _available("vllm")),
        ("GPUs", f"{sum(config.gpus.values()):g}", "where the cluster has any; a learner's rank takes a whole one"),
        ("learner ranks", str(config.bc.deepspeed.ranks if config.slm.backend == "vllm" else 0), f"ZeRO-{config.bc.deepspeed.zero_stage}"),
        ("label branches", str(_label_branches(config)), "at most; they share what is known of their trees"),
        ("test episodes", str(config.training_seeds * _test_episodes(config)), "live, before memoisation"),
    ]
    lines = [f"# {'resource':<14} {'asked':>10}   available{here}"]
    return "\n".join([*lines, *(f"# {name:<14} {asked:>10}   {available}" for name, asked, available in rows)])


def check(config: RunConfig) -> None:
    """Refuse a run that cannot succeed here, before anything is started.

    Raises UsageError for what the user can correct, RuntimeFailure for what is missing on the machine.
    """
    for split, files in config.env.files.items():
        for game in files:
            if not game.is_file():
                raise UsageError(f"env.files.{split}: game file {game} does not exist; generate one with tw-make or remove the entry")
    for role, model in (("slm", config.slm), ("teacher", config.teacher)):
        _check_model(role, model)
    if config.verifier is not None and config.verifier.judge is not None:
        _check_model("verifier.judge", config.verifier.judge)
    available = psutil.virtual_memory().available / 2**30
    if not config.cluster.address and available < config.cluster.memory_gib:
        raise RuntimeFailure(
            f"cluster.memory_gib = {config.cluster.memory_gib:g}: only {available:.1f} GiB of memory are available; "
            "close something, or lower the key if you know better"
        )
    if _free_disk_gib(config.run_dir) < DISK_GIB:
        raise RuntimeFailure(f"run_dir = {config.run_dir}: less than {DISK_GIB:.0f} GiB of disk are free there; choose another run_dir")
    # Last, because a tokenizer takes seconds to load.
    for role, model in (("slm", config.slm), ("teacher", config.teacher)):
        check_chat(role, model)


def _check_model(role: str, model: ModelConfig) -> None:
    if model.backend == "vllm":
        if importlib.util.find_spec("vllm") is None:
            raise RuntimeFailure(
                f"{role}.backend = vllm: vLLM is not installed; run `make setup`, or install the extra [gpu] on a CUDA machine"
            )
        looks_local = model.model.startswith((".", "/", "~", "models/", "runs/"))
        if looks_local and not Path(model.model).is_dir():
            raise UsageError(f"{role}.model = {model.model}: no such directory; give a Hugging Face directory, a hub id or `scratch`")
    if model.backend == "openai":
        read_key(model.api_key_env)
        url = urlsplit(model.base_url)
        port = url.port or (443 if url.scheme == "https" else 80)
        try:
            socket.create_connection((url.hostname or "", port), timeout=5.0).close()
        except OSError as error:
            raise RuntimeFailure(
                f"{role}.base_url = {shown_address(model.base_url)}: cannot be reached ({error}); start the endpoint or correct the address"
            ) from None


def _free_disk_gib(folder: Path) -> float:
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    return shutil.disk_usage(existing).free / 2**30


def _available(package: str) -> str:
    return "installed" if importlib.util.find_spec(package) else "NOT INSTALLED"


def _test_episodes(config: RunConfig) -> int:
    tasks = len(config.env.files.get("test", ())) or config.env.splits.test
    arms = 2 + len(config.swept) * len(config.evaluate.rates)
    return tasks * (config.perturb.test_seeds * arms + 2)


def _label_branches(config: RunConfig) -> int:
    """S, T1 and Tinf in both rounds, and pairs, were every episode to last to the limit."""
    if config.router is None:
        return 0
    labels, alone = config.labels, (config.labels.tasks + config.labels.validation_tasks) * config.labels.seeds
    first = 2 * labels.n * (labels.states + labels.validation_states) + alone * config.env.max_steps
    again = (1 + 2 * labels.n_unsure) * ((labels.states + 1) // 2) + (1 + 2 * labels.n) * ((labels.validation_states + 1) // 2)
    pairs = 2 * (labels.pairs + labels.pairs // 4)
    return config.training_seeds * (first + (again + pairs if labels.rounds == 2 else 0))
