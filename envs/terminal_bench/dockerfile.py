"""From a task's Dockerfile to the steps that prepare a machine without Docker, and to what keeps
that from being done.

Read are FROM, WORKDIR, COPY, ADD of local files, ENV, ARG and RUN. Packages that RUN would install
are collected, and have to be there already.
"""

import fnmatch
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from envs.terminal_bench.installs import installs_of
from envs.terminal_bench.machine import File

_PLAIN_IMAGE = re.compile(
    r"(?:(?:ghcr|docker)\.io/)?(?:library/)?(?:laude-institute/t-bench/)?"
    r"(?:debian|ubuntu|python(?:-3-\d+)?|ubuntu-24-04)(?::[\w.-]+)?(?:@sha256:\w+)?"
)
_NETWORK = re.compile(
    r"\b(?:curl|wget)\s|\bgit\s+clone\b|\bnpm\s+i|\bcargo\s+install|\bgo\s+install"
)
_VARIABLE = re.compile(r"\$(?:\{(\w+)(?::-([^}]*))?\}|(\w+))")
_KNOWN = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
"""What an image has before its Dockerfile says anything."""
_READ_ONLY = ("/usr/", "/bin/", "/sbin/", "/lib/", "/lib64/", "/dev/", "/proc/", "/sys/")
_FOLLOWED = {"FROM", "WORKDIR", "COPY", "ADD", "ENV", "ARG", "RUN", "USER"}
_IGNORED = {"CMD", "ENTRYPOINT", "EXPOSE", "LABEL", "VOLUME", "STOPSIGNAL", "HEALTHCHECK", "SHELL"}


@dataclass(frozen=True)
class Put:
    """Files to write, by absolute path."""

    files: Mapping[str, File]


@dataclass(frozen=True)
class Run:
    """A script to run in a folder."""

    script: str
    folder: str


@dataclass(frozen=True)
class Build:
    """How a machine is prepared. `problems` say why that cannot be done without Docker."""

    steps: tuple[Put | Run, ...] = ()
    folder: str = "/app"
    environment: tuple[tuple[str, str], ...] = ()
    packages: tuple[str, ...] = ()
    python_packages: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def read_dockerfile(text: str, context: Mapping[str, File]) -> Build:
    """The build of a Dockerfile; `context` has the files beside it, by relative path."""
    reading = _Reading(context)
    for name, value in instructions(text):
        reading.take(name, value)
    return reading.build()


def instructions(text: str) -> list[tuple[str, str]]:
    """Name and value of every instruction, with continued lines joined and comments left out."""
    pairs = []
    lines = iter(text.replace("\r\n", "\n").split("\n"))
    for line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        while line.rstrip().endswith("\\"):
            following = next(lines, "")
            while following.lstrip().startswith("#"):
                following = next(lines, "")
            line = line.rstrip()[:-1] + " " + following
        heredoc = re.search(r"<<-?['\"]?(\w+)['\"]?\s*$", line)
        name, _, value = line.strip().partition(" ")
        if heredoc and name.upper() == "RUN":
            body = []
            for inner in lines:
                if inner.strip() == heredoc[1]:
                    break
                body.append(inner)
            value = "\n".join(body)
        pairs.append((name.upper(), value.strip()))
    return pairs


class _Reading:
    def __init__(self, context: Mapping[str, File]) -> None:
        self._context = context
        self._steps: list[Put | Run] = []
        self._folder = "/"
        self._environment: dict[str, str] = {}
        self._packages: list[str] = []
        self._python: list[str] = []
        self._problems: list[str] = []
        self._stages = 0

    def take(self, name: str, value: str) -> None:
        if name in _FOLLOWED:
            getattr(self, f"_{name.lower()}")(value)
        elif name not in _IGNORED:
            self._problems.append(f"its Dockerfile has {name}, which only Docker can do")

    def build(self) -> Build:
        return Build(
            tuple(self._steps),
            self._folder,
            tuple(self._environment.items()),
            tuple(dict.fromkeys(self._packages)),
            tuple(dict.fromkeys(self._python)),
            tuple(dict.fromkeys(self._problems)),
        )

    def _from(self, value: str) -> None:
        self._stages += 1
        words = [word for word in value.split() if not word.startswith("--")]
        if not words:
            self._problems.append("its Dockerfile has FROM without an image")
            return
        image = self._named(words[0])
        if self._stages > 1:
            self._problems.append("its Dockerfile has several stages")
        elif not _PLAIN_IMAGE.fullmatch(image):
            self._problems.append(f"its image {image} is no plain Debian, Ubuntu or Python")

    def _workdir(self, value: str) -> None:
        self._folder = str(PurePosixPath(self._folder, self._named(value)))
        self._steps.append(Run(f"mkdir -p -- {shlex.quote(self._folder)}", "/"))

    def _env(self, value: str) -> None:
        pairs = re.findall(r"(\w+)=(\"(?:[^\"\\]|\\.)*\"|'[^']*'|\S*)", value)
        if not pairs:
            name, _, content = value.partition(" ")
            pairs = [(name, content)]
        for name, text in pairs:
            self._environment[name] = self._named(text.strip("\"'"))

    def _arg(self, value: str) -> None:
        name, equals, default = value.partition("=")
        if equals:
            self._environment.setdefault(name, default.strip("\"'"))

    def _user(self, value: str) -> None:
        if value.strip() not in ("root", "0"):
            self._problems.append(f"its Dockerfile has USER {value}")

    def _add(self, value: str) -> None:
        if "://" in value or re.search(r"\.(?:tar|tgz|tbz2|txz)(?:\.\w+)?\s", value):
            self._problems.append("its Dockerfile has ADD of an address or an archive")
        else:
            self._copy(value)

    def _copy(self, value: str) -> None:
        try:
            words = shlex.split(value.replace("[", " ").replace("]", " ").replace('",', '" '))
        except ValueError:
            self._problems.append(f"its Dockerfile has COPY {value}, in which a quote is open")
            return
        if any(word.startswith("--from") for word in words):
            self._problems.append("its Dockerfile copies from another image")
            return
        mode = next((word[8:] for word in words if word.startswith("--chmod=")), "")
        paths = [self._named(word) for word in words if not word.startswith("--")]
        if len(paths) < 2:
            self._problems.append(f"its Dockerfile has COPY {value}, which names no target")
            return
        *sources, target = paths
        into_folder = target.endswith("/") or target in (".", "..") or len(sources) > 1
        base = PurePosixPath(self._folder, target)
        files: dict[str, File] = {}
        for source in sources:
            files |= self._copied(source, base, into_folder)
        if mode:
            if not re.fullmatch("[0-7]{3,4}", mode):
                self._problems.append(f"its Dockerfile has --chmod={mode}, which is no octal mode")
                return
            bits = int(mode, 8)
            files = {path: File(file.content, bits) for path, file in files.items()}
        if read_only_path := next((path for path in files if path.startswith(_READ_ONLY)), ""):
            self._problems.append(
                f"its Dockerfile copies to {read_only_path}, where nothing can be written"
            )
        self._steps.append(Put(files))

    def _copied(self, source: str, base: PurePosixPath, into_folder: bool) -> dict[str, File]:
        source = source.removeprefix("./").rstrip("/")
        if source in ("", "."):
            return {str(base / name): file for name, file in self._context.items()}
        if source in self._context:
            place = base / PurePosixPath(source).name if into_folder else base
            return {str(place): self._context[source]}
        below = f"{source}/"
        inside = {
            str(base / name.removeprefix(below)): file
            for name, file in self._context.items()
            if name.startswith(below)
        }
        if inside:
            return inside
        matches = {
            str(base / PurePosixPath(name).name): file
            for name, file in self._context.items()
            if fnmatch.fnmatch(name, source)
        }
        if not matches:
            self._problems.append(f"{source}, which its Dockerfile copies, is not there")
        return matches

    def _run(self, value: str) -> None:
        value = re.sub(r"^(?:--\S+\s+)+", "", value)
        if value.startswith("["):
            value = shlex.join(re.findall(r'"((?:[^"\\]|\\.)*)"', value))
        parts = []
        for part in re.split(r"\s*&&\s*|\s*;\s*(?!;)", value) if _installs(value) else [value]:
            if not self._installed(part):
                parts.append(part)
        script = " && ".join(part for part in parts if part.strip())
        if not script:
            return
        if _NETWORK.search(script):
            self._problems.append("its Dockerfile fetches something from the network")
        self._steps.append(Run(script, self._folder))

    def _installed(self, part: str) -> bool:
        """Whether a part of a RUN installs packages, which are noted."""
        installs = installs_of(part)
        if installs is None:
            return part.split()[:1] == ["rm"] and "/var/lib/apt/lists" in part
        self._packages += installs.debian
        self._python += installs.python
        return True

    def _named(self, text: str) -> str:
        """With the variables that are known so far, as Docker replaces them."""

        def value(match: re.Match[str]) -> str:
            name = match[1] or match[3]
            return self._environment.get(name) or _KNOWN.get(name) or match[2] or ""

        return _VARIABLE.sub(value, text)


def _installs(script: str) -> bool:
    return re.search(r"\b(?:apt-get|apt|pip\d?|uv)\b", script) is not None
