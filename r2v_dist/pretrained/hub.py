"""A model from its Hugging Face repository, at the revision of the catalogue. Invariant: the folder
has every file that the repository lists, or the download failed.
"""

import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from r2v_dist.errors import RuntimeFailure
from r2v_dist.pretrained.catalogue import Pretrained

MODEL_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
"""What a Hugging Face directory needs. Weights of other kinds stay out."""
_DEADLINE_S = 15.0
"""For the hub to answer at all."""


class HubOutOfReach(RuntimeFailure):
    """There is no answer from the hub, or the user wants none (HF_HUB_OFFLINE)."""


def files_of(model: Pretrained) -> list[str]:
    """What the repository lists of `MODEL_FILES`. Raises HubOutOfReach, and RuntimeFailure where
    the hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        info = HfApi().model_info(model.hub, revision=model.revision, timeout=_DEADLINE_S)
    except HfHubHTTPError as error:
        raise _refusal(model, error) from None
    except Exception as error:  # a boundary: what a network raises depends on the client's version
        raise HubOutOfReach(_first_line(error)) from None
    names = [file.rfilename for file in info.siblings or []]
    return [name for name in names if any(fnmatch(name, form) for form in MODEL_FILES)]


def download(model: Pretrained, names: list[str], folder: Path) -> None:
    """Put the files of these names into `folder`; what is there already is not fetched again.

    Raises RuntimeFailure where not all of them can be had.
    """
    from huggingface_hub import snapshot_download

    try:
        snapshot_download(
            model.hub, revision=model.revision, allow_patterns=names, local_dir=folder
        )
    except Exception as error:  # as above
        raise _refusal(model, error) from None
    # The hub's client returns what is there where the network breaks off.
    missing_names = [name for name in names if not (folder / name).is_file()]
    if missing_names:
        raise RuntimeFailure(
            f"{model.hub}: {missing_names[0]} did not come; run the same command again to continue"
        )
    shutil.rmtree(folder / ".cache", ignore_errors=True)


def _refusal(model: Pretrained, error: Any) -> RuntimeFailure:
    return RuntimeFailure(f"{model.hub}@{model.revision[:12]}: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
