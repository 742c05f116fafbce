"""Language models as env runners use them. Every back end can play SLM or teacher; all look the
same to the agent loop.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from actors.language_models.expert import ExpertModel
from actors.language_models.simulated import SimulatedModel
from actors.language_models.tokenizer import load_tokenizer
from actors.language_models.vllm import EngineCall, VllmModel
from r2v_dist.config.models import ModelConfig
from r2v_dist.errors import DamagedFile
from r2v_dist.files import read_json_object
from r2v_dist.language_model import LanguageModel


def build_model(
    config: ModelConfig,
    role: str,
    calls: Sequence[EngineCall] | None,
    tokenizer_path: str,
    engine_wait_s: float = 600.0,
) -> LanguageModel:
    """The back end that the configuration names. `calls` reach the vLLM engines of this role, where
    there are some.
    """
    if config.backend == "expert":
        return ExpertModel()
    if config.backend == "simulated":
        return SimulatedModel(
            config.failure_rate,
            config.failure_rate_perturbed,
            config.failure_rate_after_error,
            config.signal_auroc,
        )
    if config.backend == "openai":
        from actors.language_models.openai import OpenAIModel  # with an HTTP client

        return OpenAIModel(config, role=role)
    assert calls
    tokenizer = load_tokenizer(tokenizer_path)
    parser = None
    if config.tool_parser:
        from actors.language_models.tool_parser import EngineToolParser  # with vLLM

        parser = EngineToolParser(config.tool_parser, tokenizer_path, f"{role}.tool_parser")
    eos_ids = eos_ids_of(Path(tokenizer_path))
    return VllmModel(calls, tokenizer, config, role, eos_ids, engine_wait_s, parser)


def eos_ids_of(folder: Path) -> list[int]:
    """Every token at which a model of this Hugging Face directory stops by its own
    configuration. Raises DamagedFile for one that cannot be read."""
    ids: list[Any] = []
    for name in ("generation_config.json", "config.json"):
        if (folder / name).is_file():
            try:
                settings = read_json_object(folder / name)
            except DamagedFile as error:
                fix = "take the model from where it came again"
                raise DamagedFile(error.path, error.problem, fix) from None
            eos = settings.get("eos_token_id")
            ids += eos if isinstance(eos, list) else [eos]
    return [token for token in dict.fromkeys(ids) if isinstance(token, int)]
