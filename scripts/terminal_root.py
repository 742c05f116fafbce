"""Make the prepared root of terminals: Debian packages, unpacked into a folder, without installing
anything on this machine and without root.

The packages of `terminal_root.packages` and what they depend on are fetched with apt into a cache
of their own and unpacked by dpkg-deb; none of their scripts is run. `terminal_root.lock` pins
version and SHA-256 of each; `--update` writes it anew. The folder is named by the lock and by how a
root is made, so that one that is there is complete and is not made again.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
PACKAGES = HERE / "terminal_root.packages"
LOCK = HERE / "terminal_root.lock"
SUITE = "bookworm"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
FETCH_S = 1800
_MADE = b"2"
"""Another number where roots are made otherwise than before."""
_LINKS = {
    "bin/sh": "dash",
    "bin/awk": "mawk",
    "bin/cc": "gcc",
    "bin/c++": "g++",
    "bin/vi": "vim.tiny",
    "bin/editor": "nano",
    "bin/pager": "less",
    "bin/nc": "nc.openbsd",
}
"""What packages would link when they are installed, by the program that must be there."""


class Failure(Exception):
    """What keeps the root from being made, in one line."""


def main() -> None:
    """Make the root and print its folder, or end with one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, default=_cache(), help="folder of roots and packages")
    parser.add_argument("--mirror", help="a Debian mirror; by default this machine's own")
    parser.add_argument("--update", action="store_true", help="pin what the mirror has now")
    args = parser.parse_args()
    try:
        for program in ("apt-get", "dpkg-deb"):
            if shutil.which(program) is None:
                raise Failure(f"{program} is not installed; run this on Debian or Ubuntu")
        print(make(args.to.expanduser(), args.mirror or own_mirror(), args.update))
    except Failure as failure:
        sys.exit(f"terminal-root: {failure}")


def make(place: Path, mirror: str, update: bool) -> Path:
    """The root. Raises Failure."""
    apt = Apt(place / "apt", mirror)
    if update:
        archives = apt.fetch(_names(PACKAGES))
        LOCK.write_text("".join(f"{_pin(one)}\n" for one in archives), encoding="utf-8")
    pins = [line.split() for line in LOCK.read_text(encoding="utf-8").splitlines()]
    digest = hashlib.sha256(LOCK.read_bytes() + _MADE).hexdigest()[:12]
    root = place / f"root-{digest}"
    if root.is_dir():
        return root
    archives = apt.fetch([f"{name}={version}" for name, version, _ in pins])
    wanted = {sha for _, _, sha in pins}
    found = {_sha(one): one for one in archives}
    if missing := [f"{name}={version}" for name, version, sha in pins if sha not in found]:
        raise Failure(f"{missing[0]} is not as {LOCK.name} pins it; run again with --update")
    fresh = place / f"root-{digest}.{os.getpid()}"
    status = []
    for sha in sorted(wanted):
        _run(["dpkg-deb", "-x", str(found[sha]), str(fresh)], 300)
        status.append(_run(["dpkg-deb", "-f", str(found[sha])], 60).strip())
    _complete(fresh)
    _list(fresh, status)
    fresh.rename(root)
    return root


def own_mirror() -> str:
    """Where this machine's apt takes the release from. Raises Failure where it takes another."""
    targets = ["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    known = _run(["apt-get", *targets, f"Codename: {SUITE}"], 60).split()
    if not known:
        raise Failure(f"this machine's apt has no mirror of Debian {SUITE}; name one with --mirror")
    return known[0]


class Apt:
    """apt with folders of its own, which knows nothing as installed."""

    def __init__(self, folder: Path, mirror: str) -> None:
        self._cache = folder / "cache"
        for part in ("state/lists/partial", "cache/archives/partial", "etc"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / "status").write_text("", encoding="utf-8")
        source = f"deb [signed-by={KEYRING}] {mirror} {SUITE} main\n"
        (folder / "etc" / "sources.list").write_text(source, encoding="utf-8")
        options = {
            "Dir::State": folder / "state",
            "Dir::State::status": folder / "status",
            "Dir::Cache": folder / "cache",
            "Dir::Etc::sourcelist": folder / "etc" / "sources.list",
            "Dir::Etc::sourceparts": "-",
            "APT::Sandbox::User": "",
            "APT::Install-Recommends": "false",
            "Acquire::Languages": "none",
        }
        self._options = [f"-o{name}={value}" for name, value in options.items()]
        self._known = False

    def fetch(self, names: list[str]) -> list[Path]:
        """The archives of packages and of what they depend on. Raises Failure."""
        if not self._known:
            _run(["apt-get", *self._options, "-qq", "update"], FETCH_S)
            self._known = True
        install = ["apt-get", *self._options, "-qq", "-y", "install", *names]
        _run([*install, "--download-only"], FETCH_S)
        archives = self._cache / "archives"
        simulated = _run([*install, "--simulate"], 300)
        inst = [line.split() for line in simulated.splitlines() if line.startswith("Inst ")]
        found = {}
        for archive in sorted(archives.glob("*.deb")):
            name, version, *_ = archive.name.replace("%3a", ":").split("_")
            found[name, version] = archive
        wanted = [(words[1], words[2].strip("([")) for words in inst]
        if missing := [
            f"{name}={version}" for name, version in wanted if (name, version) not in found
        ]:
            raise Failure(f"{missing[0]} was not fetched; is the mirror complete?")
        return [found[one] for one in wanted]


def _names(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [name for line in lines for name in line.partition("#")[0].split()]


def _pin(archive: Path) -> str:
    fields = _run(["dpkg-deb", "-W", "--showformat=${Package} ${Version}", str(archive)], 60)
    return f"{fields} {_sha(archive)}"


def _sha(archive: Path) -> str:
    return hashlib.sha256(archive.read_bytes()).hexdigest()


def _complete(root: Path) -> None:
    """What installing the packages would have done, as far as terminals need it."""
    for name in ("bin", "sbin", "lib", "lib64"):
        part = root / name
        if part.is_dir() and not part.is_symlink():
            shutil.copytree(part, root / "usr" / name, symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(part)
    for link, target in _LINKS.items():
        place = root / "usr" / link
        if (place.parent / target).exists() and not place.is_symlink():
            place.symlink_to(target)


def _list(root: Path, controls: list[str]) -> None:
    """dpkg's list of what is installed, by which a task's packages are found."""
    paragraphs = []
    for control in sorted(controls):
        name, _, rest = control.partition("\n")
        paragraphs.append(f"{name}\nStatus: install ok installed\n{rest}\n")
    place = root / "var/lib/dpkg/status"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("\n".join(paragraphs), encoding="utf-8")


def _run(command: list[str], limit_s: int) -> str:
    done = subprocess.run(
        command,
        capture_output=True,
        encoding="utf-8",
        timeout=limit_s,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise Failure(f"{command[0]} failed: {lines[0] if lines else done.returncode}")
    return done.stdout


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "r2v" / "terminal"


if __name__ == "__main__":
    main()
