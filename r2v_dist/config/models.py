"""The configuration of a language model in any role."""

import math
import os
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from r2v_dist.config.base import Section
from r2v_dist.errors import UsageError
from r2v_dist.object_storage.object_store import holds_secret

LARGEST_ADAPTER = 512
"""vLLM's bound on the rank of a LoRA adapter."""
_MOST_TOKENS = 10_000_000
"""Larger than any context window; a larger number is a mistake."""


class SamplingConfig(Section):
    """How actions are sampled from a model."""

    candidates: int = Field(1, ge=1, le=1000)
    """K, the number of candidates a step."""
    temperature: float | None = Field(0.7, ge=0, le=100)
    """null, `openai` only: not sent. Reasoning models refuse it."""
    top_p: float | None = Field(0.95, gt=0, le=1)
    """null, `openai` only: not sent."""
    max_tokens: int = Field(24, ge=1, le=_MOST_TOKENS)
    """Most tokens of an answer. A reasoning model's count includes its reasoning."""
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """`openai`: the name of `max_tokens` in requests; reasoning models require the longer name."""
    send_seed: bool = True
    """`openai`: whether requests contain the seed; false for endpoints that refuse it."""

    @model_validator(mode="after")
    def _greedy_is_single(self) -> Self:
        if self.temperature == 0 and self.candidates > 1:
            raise ValueError(
                "temperature 0 gives one candidate; set candidates to 1 or raise the temperature"
            )
        return self


class ModelConfig(Section):
    """A language model; SLM and teacher are configured alike."""

    backend: Literal["vllm", "expert", "openai", "simulated"]
    model: str = ""
    """`vllm`: a local directory, a name that `r2v models list` shows, a Hugging Face id, or
    `scratch`. `openai`: the model's name at the endpoint.
    """
    sampling: SamplingConfig = SamplingConfig()
    system_prompt: str = ""
    """Opens every conversation; where a chat template has no system role, it begins the first user
    message."""
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    max_model_len: int = Field(2048, ge=64, le=_MOST_TOKENS)
    max_num_seqs: int = Field(128, ge=1, le=1_000_000)
    remembered_answers: int = Field(0, ge=0, le=1_000_000)
    """`vllm`: answers that an engine keeps and gives again to equal requests (prompt, sampling, and
    seed unless the temperature is 0) until its weights change. It pays where answers take seconds.
    """
    kv_cache_mib: int = Field(256, ge=16, le=1_000_000_000)
    """CPU only: memory of the key-value cache."""
    gpu_memory_utilization: float = Field(0.6, gt=0, le=1)
    """GPU only: share of each GPU's memory that the engine takes. An engine of one rank requests
    the same share of a GPU from Ray.
    """
    tensor_parallel: int = Field(1, ge=1, le=1024)
    pipeline_parallel: int = Field(1, ge=1, le=1024)
    replicas: int = Field(1, ge=1, le=10_000)
    """`vllm`: engines of this model. A (task, seed) keeps to one of them, so that its prefix stays
    in that engine's cache.
    """
    merge_adapters: bool | None = None
    """`vllm`: whether engines take a LoRA adapter merged into the weights, which are then written
    and read as a whole at every change; false adds the adapter to the model that they hold. null:
    merged where models run on CPUs, on which vLLM spends most of a step on an adapter.
    """
    accelerator_type: str = ""
    """GPU only: the kind of GPU that an engine requests from Ray, for example `H100`; empty for any
    kind.
    """
    label_selector: dict[str, str] = Field(default_factory=dict)
    """Ray labels of the nodes on which engines start, for example {pool: inference}."""
    cpu_cores: str = ""
    """CPU only: cores to which the engine's threads are bound, for example `0-1`; empty for all. A
    list is divided among the replicas.
    """
    base_url: str = ""
    """`openai`: the endpoint, for example http://127.0.0.1:8000/v1. The key is read from the
    environment variable `api_key_env`.
    """
    api_key_env: str = "OPENAI_API_KEY"
    timeout_s: float = Field(60.0, gt=0, le=1e6)
    """Deadline of one request to an engine or endpoint, in seconds. `vllm`: from when the engine
    begins to compute it; the wait for the engine does not count.
    """
    retry_s: float = Field(300.0, gt=0, le=1e6)
    """`openai`: the longest time for all attempts of a request, with the waits that the endpoint
    demands. It must be below cluster.unit_timeout_s."""
    tool_parser: str = ""
    """`vllm`: the name of vLLM's parser of this model's tool calls, for example `hermes`; empty
    where the model calls no tools."""
    chat_template_kwargs: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Variables of the chat template, for example {enable_thinking: false}. `openai`: sent
    along, if there are any."""
    failure_rate: float = Field(0.2, ge=0, le=1)
    """`simulated`: probability that a proposed action is not the expert's."""
    failure_rate_perturbed: float | None = Field(None, ge=0, le=1)
    """`simulated`: the probability where the last observation was perturbed. Where several
    probabilities apply, the largest counts.
    """
    failure_rate_after_error: float | None = Field(None, ge=0, le=1)
    """`simulated`: the probability where the last observation reads like an error, for example a
    report of failed visible tests.
    """
    signal_auroc: float | None = Field(None, gt=0, lt=1)
    """`simulated`: how well the first-token entropy tells failing from right proposals; without it
    there are no log-probabilities.
    """

    @property
    def ranks(self) -> int:
        """Processes that compute one engine."""
        return self.tensor_parallel * self.pipeline_parallel

    @property
    def gpus(self) -> float:
        """GPUs that one engine requests from Ray where there are any: a share of one GPU, or whole
        GPUs.
        """
        return self.gpu_memory_utilization if self.ranks == 1 else self.ranks

    @property
    def sequences_held(self) -> int:
        """Sequences that one engine takes at once: those that it computes and the next ones, which
        it finds in its own queue when candidates of a request end one after the other.
        """
        return math.ceil(1.25 * self.max_num_seqs)

    @property
    def requests_at_once(self) -> int:
        """Requests that all engines of this model take at once."""
        return max(1, self.replicas * self.sequences_held // self.sampling.candidates)

    def content(self) -> dict[str, Any]:
        """The keys that decide the model's answers; the other keys say where and how fast."""
        content = self.model_dump(mode="json", exclude=set(_OPERATIONAL))
        # Newer keys count only where they are set, so that stages of older runs stay complete.
        for name in ("chat_template_kwargs", "tool_parser"):
            if not getattr(self, name):
                del content[name]
        for name in ("max_tokens_field", "send_seed"):
            if getattr(self.sampling, name) == SamplingConfig.model_fields[name].default:
                del content["sampling"][name]
        return content

    @field_validator("base_url")
    @classmethod
    def _is_address(cls, url: str) -> str:
        if holds_secret(url):
            raise ValueError(
                "an address with a key or a password, which a run would keep; put the key into an "
                "environment variable and name that in api_key_env"
            )
        if url and not _is_http(url):
            raise ValueError(
                "it is not the address of an endpoint, which ends with its path; write for example "
                "http://127.0.0.1:8000/v1"
            )
        return url

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.backend in ("vllm", "openai") and not self.model:
            raise ValueError(f"backend {self.backend} needs `model`")
        if self.backend == "openai" and not self.base_url:
            raise ValueError("backend openai needs `base_url`")
        if self.backend == "vllm" and None in (self.sampling.temperature, self.sampling.top_p):
            raise ValueError(
                "backend vllm needs numbers for sampling.temperature and sampling.top_p"
            )
        return self


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        parts.port  # reading it checks it
    except ValueError:
        return False
    complete = parts.scheme in ("http", "https") and bool(parts.hostname)
    return complete and url.isprintable() and not set("?#") & set(url)


def read_key(variable: str) -> str:
    """The key in an environment variable, without the space around it; empty where there is none.

    Raises UsageError, without showing it, for one that no HTTP header can carry.
    """
    key = os.environ.get(variable, "").strip()
    if not all("!" <= letter <= "~" for letter in key):
        raise UsageError(
            f"environment variable {variable}: the key holds a space, a line break or a letter "
            f"that is not ASCII; set it again without"
        )
    return key


_OPERATIONAL = (
    "remembered_answers",
    "max_num_seqs",
    "kv_cache_mib",
    "gpu_memory_utilization",
    "tensor_parallel",
    "pipeline_parallel",
    "replicas",
    "merge_adapters",
    "accelerator_type",
    "label_selector",
    "cpu_cores",
    "timeout_s",
    "retry_s",
    "api_key_env",
)
"""Keys that say where and how fast, and change no answer."""
