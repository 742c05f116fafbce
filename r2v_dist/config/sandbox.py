"""The sandbox of model-written programs."""

from typing import Any

from pydantic import Field

from r2v_dist.config.base import Section


class SandboxConfig(Section):
    """Limits of a program that a model wrote; docs/sandbox.md describes its isolation."""

    allow_weaker: bool = False
    """Whether programs run where bubblewrap does not work, with limits on each process only."""
    wall_s: float = Field(10.0, gt=0, le=3600)
    cpu_s: float = Field(10.0, gt=0, le=3600)
    """Processor time of each process, rounded up to a whole second."""
    memory_mib: int = Field(1024, ge=64, le=1_048_576)
    processes: int = Field(16, ge=1, le=4096)
    """Processes and threads, the program's first one included."""
    open_files: int = Field(64, ge=16, le=4096)
    file_mib: int = Field(16, ge=1, le=4096)
    """Size of the largest file; the total of all files of a program is four times this."""
    output_kib: int = Field(256, ge=1, le=65_536)
    """Size of standard output; standard error has the same limit."""

    def content(self) -> dict[str, Any]:
        """Nothing here says what a task is: the limits stand there with their defaults."""
        return SandboxConfig().as_before()

    def as_before(self) -> dict[str, Any]:
        """The keys that named a stage in earlier versions."""
        return self.model_dump(mode="json")
