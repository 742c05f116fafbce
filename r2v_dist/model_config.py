"""The configuration of a language model, in whichever role."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from r2v_dist.yaml_config import Section


class SamplingConfig(Section):
    """How a model is asked for an action."""

    candidates: int = Field(1, ge=1)
    """K, the proposals a step."""
    temperature: float = Field(0.7, ge=0)
    top_p: float = Field(0.95, gt=0, le=1)
    max_tokens: int = Field(24, ge=1)

    @model_validator(mode="after")
    def _greedy_is_single(self) -> Self:
        if self.temperature == 0 and self.candidates > 1:
            raise ValueError("temperature 0 gives one candidate; set candidates to 1 or raise the temperature")
        return self


class ModelConfig(Section):
    """A language model; SLM and teacher are configured alike."""

    backend: Literal["vllm", "expert", "openai", "simulated"]
    model: str = ""
    """`vllm`: a Hugging Face id, a local directory, or `scratch`. `openai`: the model's name at the endpoint."""
    sampling: SamplingConfig = SamplingConfig()
    system_prompt: str = ""
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    max_model_len: int = Field(2048, ge=64)
    max_num_seqs: int = Field(128, ge=1)
    kv_cache_mib: int = Field(256, ge=16)
    """CPU only: memory of the key-value cache."""
    gpu_memory_utilization: float = Field(0.6, gt=0, le=1)
    """GPU only: the share of each GPU's memory that the engine takes. An engine of one rank asks Ray for as much of a GPU."""
    tensor_parallel: int = Field(1, ge=1)
    cpu_cores: str = ""
    """CPU only: cores the engine's threads are bound to, for example `0-1`; empty for all."""
    base_url: str = ""
    """`openai`: the endpoint, for example http://127.0.0.1:8000/v1. The key is read from the environment variable `api_key_env`."""
    api_key_env: str = "OPENAI_API_KEY"
    timeout_s: float = Field(60.0, gt=0)
    failure_rate: float = Field(0.2, ge=0, le=1)
    """`simulated`: probability that a proposed action is not the expert's."""
    failure_rate_perturbed: float | None = Field(None, ge=0, le=1)
    """`simulated`: the probability where the last observation was perturbed; the larger one counts where several apply."""
    failure_rate_after_error: float | None = Field(None, ge=0, le=1)
    """`simulated`: the probability where the last observation reads like an error, for example of failed visible tests."""
    signal_auroc: float | None = Field(None, gt=0, lt=1)
    """`simulated`: how well the first-token entropy tells failing from right proposals; without it there are no log-probabilities."""

    @property
    def gpus(self) -> float:
        """What the engine asks Ray for where there are GPUs: a share of one, or whole ones."""
        return self.gpu_memory_utilization if self.tensor_parallel == 1 else self.tensor_parallel

    def content(self) -> dict[str, Any]:
        """The keys that decide what the model answers; the others say where and how fast."""
        operational = {"max_num_seqs", "kv_cache_mib", "gpu_memory_utilization", "tensor_parallel", "cpu_cores", "timeout_s", "api_key_env"}
        return self.model_dump(mode="json", exclude=operational)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.backend in ("vllm", "openai") and not self.model:
            raise ValueError(f"backend {self.backend} needs `model`")
        if self.backend == "openai" and not self.base_url:
            raise ValueError("backend openai needs `base_url`")
        return self
