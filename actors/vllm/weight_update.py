"""The part of a weight update that runs inside vLLM's worker processes."""

from typing import Any


class ReloadExtension:
    """Mixed into vLLM's worker (`worker_extension_cls`), hence no `__init__`."""

    model_runner: Any

    def load_checkpoint(self, path: str) -> None:
        """Replace the weights by those of a Hugging Face directory of the same architecture."""
        self.reload_weights(weights_path=path)  # type: ignore[attr-defined]
        head = getattr(self.model_runner.model, "lm_head", None)
        if head is not None and hasattr(head, "cpu_linear"):
            # With tied embeddings the CPU head keeps a packed copy of the old weights.
            from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

            dispatch_cpu_unquantized_gemm(head, remove_weight=False)
