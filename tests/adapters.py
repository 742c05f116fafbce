"""LoRA adapters with random weights, as PEFT saves them."""

from pathlib import Path
from typing import Any


def make_adapter(
    model: Path, folder: Path, seed: int, r: int = 4, size: float = 0.05
) -> dict[str, Any]:
    """Save an adapter to a model, whose scale is two. The weights into which PEFT merges it."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    from learners.common.hf_trainer import lora_adapter
    from r2v_dist.config.learners import LoraConfig

    plain = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    adapted = get_peft_model(plain, lora_adapter(LoraConfig(r=r, alpha=2 * r, dropout=0.0)))
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(size * torch.randn(parameter.shape, generator=draw))
    adapted.save_pretrained(folder)
    return dict(adapted.merge_and_unload().state_dict())
