"""How far a policy's action distributions differ between two views of one hidden state
(docs/method.md, section 4, L_cons).

Measured on given pairs with a published checkpoint, so that any two policies can be compared on the
same views.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from learners.dpo import pairs as preference_pairs
from learners.dpo.train import build_dataset
from r2v_dist.chat import ChatFormat
from r2v_dist.config.learners import DPOConfig


@dataclass(frozen=True)
class Consistency:
    """Mean over pairs with a second view of the token-averaged JSD (nats), and the number of these
    pairs.
    """

    divergence: float
    pairs: int


def measure_consistency(
    model: str,
    pairs: Path,
    system_prompt: str,
    config: DPOConfig,
    template_settings: Mapping[str, Any] | None = None,
) -> Consistency:
    """Compare the two views of every pair of a file; `divergence` is nan when no pair has a second
    view.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from learners.common.packing import can_share_prompt
    from learners.dpo.collator import PairCollator, answer_logits
    from learners.dpo.losses import jensen_shannon, token_mean

    tokenizer = AutoTokenizer.from_pretrained(model)
    chat = ChatFormat(tokenizer, "slm", system_prompt, template_settings)
    dataset, _ = build_dataset(preference_pairs.load(pairs), chat, config.max_length)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).to(device).eval()
    pad_id = (
        tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    )
    collate = PairCollator(pad_id, views=True, share_prompt=can_share_prompt(policy))
    examples = [row for row in dataset if row["view_prompt_ids"]]
    examples.sort(key=lambda row: len(row["prompt_ids"]))
    total = 0.0
    for start in range(0, len(examples), config.micro_batch_size):
        batch = collate(examples[start : start + config.micro_batch_size])
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        count = len(batch["viewed_C"])
        with torch.no_grad():
            logits_NAV = answer_logits(policy, batch)
            jsd_CA = jensen_shannon(logits_NAV[:count], logits_NAV[2 * count :], config.temperature)
        total += float(token_mean(jsd_CA, batch["mask_NA"][2 * count :]).sum())
    return Consistency(total / len(examples) if examples else float("nan"), len(examples))
