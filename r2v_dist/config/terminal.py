"""The part of a configuration about terminals."""

from typing import Any, Literal

from pydantic import Field

from r2v_dist.config.base import Section
from r2v_dist.config.places import UserPath


class TerminalConfig(Section):
    """Terminal tasks: where they come from, and what each may use. Not for other environments."""

    tasks: UserPath | None = None
    """A directory of task folders (v1 `task.yaml`, v2 `task.toml`), which become the test split and
    nothing else; without it the project's own tasks are tested too.
    """
    backend: Literal["sandbox", "docker"] = "sandbox"
    """Where terminals are: in bubblewrap, or in containers of a Docker-compatible engine."""
    engine: str = ""
    """The engine's address (`unix:///run/podman/podman.sock`); empty: DOCKER_HOST, or the usual
    socket.
    """
    root: UserPath | None = None
    """A prepared root (`make terminal-root`); without it terminals see this machine's /usr."""
    command_s: float = Field(20.0, gt=0, le=3600)
    """Seconds after which a command is interrupted."""
    episode_s: float = Field(300.0, gt=0, le=86_400)
    """Seconds that all commands of an episode may take together."""
    observation_chars: int = Field(2000, ge=200, le=16_000)
    """Terminal output beyond this loses its middle."""
    memory_mib: int = Field(512, ge=128, le=1_048_576)
    """Memory of all processes and files of a terminal together."""
    disk_mib: int = Field(128, ge=16, le=1_048_576)
    """Size of a terminal's file system, which lies in memory."""
    processes: int = Field(128, ge=16, le=4096)
    """Processes and threads of a terminal."""

    def content(self) -> dict[str, Any]:
        """The keys that decide what the tasks are and how they end, not where they lie."""
        return self.model_dump(mode="json", exclude={"tasks", "root", "engine"})
