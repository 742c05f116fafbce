"""What a configuration's models are: the folder of one that is loaded, what engines are given of a
trained one, and the name under which the answers of any other are stored.
"""

from functools import cache
from typing import TYPE_CHECKING

from r2v_dist.config.models import ModelConfig
from r2v_dist.config.run import RunConfig
from r2v_dist.errors import UsageError
from r2v_dist.pretrained.hub import MODEL_FILES
from r2v_dist.pretrained.places import model_path
from r2v_dist.storage.checkpoints import Checkpoint

if TYPE_CHECKING:
    from r2v_dist.storage.fence import Fence


def answers_as(config: ModelConfig) -> str:
    """The version under which a back end without weights of ours answers."""
    return {
        "expert": "expert",
        "simulated": f"simulated-{config.failure_rate:g}",
        "openai": config.model,
    }[config.backend]


@cache
def local_folder(model: str, key: str) -> str:
    """A local directory with the model: the directory itself, that of a name of the catalogue, or
    the snapshot of a hub id. `key` is where the configuration names the model.
    """
    folder = model_path(model, key)
    if folder.is_dir():
        return str(folder.resolve())
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return str(snapshot_download(model, allow_patterns=list(MODEL_FILES)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UsageError(
            f"{key} = {model}: neither a local directory nor to be had from the hub "
            f"({type(error).__name__}); check the name or the network"
        ) from None


def for_engines(
    checkpoint: Checkpoint, config: RunConfig, fence: "Fence | None" = None
) -> Checkpoint:
    """What engines of the SLM are given: an adapter as it is, or a merged copy. Where models run is
    to be decided before. Raises Superseded where another driver may write and this one no more.
    """
    if not config.merges_adapters:
        return checkpoint
    from learners.common.adapters import whole

    return Checkpoint(whole(checkpoint, config.slm.dtype, fence), checkpoint.version)
