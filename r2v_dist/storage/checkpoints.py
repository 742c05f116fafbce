"""A published model: where it lies and which version it is."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Checkpoint:
    """A Hugging Face directory and the version under which its answers are stored."""

    path: str
    version: str
