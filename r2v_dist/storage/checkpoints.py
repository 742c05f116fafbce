"""A published model: its directory and its version."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Checkpoint:
    """A Hugging Face directory and the version under which its answers are stored."""

    path: str
    version: str
