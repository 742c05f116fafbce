"""The sandbox of model-written programs."""

from pydantic import Field

from r2v_dist.config.base import Section


class SandboxConfig(Section):
    """What a program that a model wrote may use; docs/sandbox.md says how it is contained."""

    allow_weaker: bool = False
    """Run such programs even where bubblewrap does not work, with nothing but limits on each
    process.
    """
    wall_s: float = Field(10.0, gt=0, le=3600)
    cpu_s: float = Field(10.0, gt=0, le=3600)
    """CPU seconds of each process, rounded up to a whole second."""
    memory_mib: int = Field(1024, ge=64, le=1_048_576)
    processes: int = Field(16, ge=1, le=4096)
    """Processes and threads, the program's first one included."""
    open_files: int = Field(64, ge=16, le=4096)
    file_mib: int = Field(16, ge=1, le=4096)
    """Largest single file; all files of a program together may have four times as much."""
    output_kib: int = Field(256, ge=1, le=65_536)
    """Most standard output, and as much standard error."""
