"""How far a policy's action distributions differ between two views of one hidden state
(docs/method.md, section 4, L_cons).

Measured on given pairs with a published checkpoint, so that any two policies can be compared on the
same views.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from learners.common.scoring import Scorer, ScoreRows, Scores, in_this_process
from learners.dpo import pairs as preference_pairs
from learners.dpo.train import Example, example_of
from r2v_dist.chat import ChatFormat
from r2v_dist.config.learners import DPOConfig
from r2v_dist.storage.checkpoints import on_this_node

if TYPE_CHECKING:
    from learners.dpo.collator import PairCollator


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
    score: ScoreRows = in_this_process,
) -> Consistency:
    """Compare the two views of every pair of a file; `divergence` is nan when no pair has a second
    view.
    """
    load = Divergence(model, system_prompt, config, template_settings or {})
    divergences = score("views of pairs", load, preference_pairs.load(pairs))
    values = divergences[~np.isnan(divergences)]
    return Consistency(float(values.mean()) if len(values) else float("nan"), len(values))


@dataclass(frozen=True)
class Divergence:
    """Called, it loads the policy in its own type, and gives the token-averaged JSD of the rows of
    pair tables: nan for a pair without a second view, or that does not fit.
    """

    model: str
    system_prompt: str
    config: DPOConfig
    template_settings: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self) -> Scorer:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from learners.common.packing import can_share_prompt
        from learners.dpo.collator import PairCollator

        on_this_node(Path(self.model))
        tokenizer = AutoTokenizer.from_pretrained(self.model)
        chat = ChatFormat(tokenizer, "slm", self.system_prompt, self.template_settings)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        policy = AutoModelForCausalLM.from_pretrained(self.model, dtype="auto").to(device).eval()
        pad_id = (
            tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        )
        collate = PairCollator(pad_id, views=True, share_prompt=can_share_prompt(policy))
        return lambda table: self._divergences(policy, collate, chat, table)

    def _divergences(
        self, policy: Any, collate: "PairCollator", chat: ChatFormat, table: pa.Table
    ) -> Scores:
        examples: dict[int, Example] = {}
        for place, pair in enumerate(preference_pairs.pairs_of(table)):
            example = example_of(pair, chat, self.config.max_length)
            if example is not None and example["view_prompt_ids"]:
                examples[place] = example
        by_length = sorted(examples, key=lambda place: len(examples[place]["prompt_ids"]))
        divergences = np.full(len(table), np.nan)
        size = self.config.micro_batch_size
        for start in range(0, len(by_length), size):
            places = by_length[start : start + size]
            divergences[places] = self._of(
                policy, collate([{**examples[place]} for place in places])
            )
        return divergences

    def _of(self, policy: Any, batch: Mapping[str, Any]) -> Sequence[float]:
        import torch

        from learners.dpo.collator import answer_logits
        from learners.dpo.losses import jensen_shannon, token_mean

        batch = {name: tensor.to(policy.device) for name, tensor in batch.items()}
        count = len(batch["viewed_C"])
        with torch.no_grad():
            logits_NAV = answer_logits(policy, batch)
            first, second = logits_NAV[:count], logits_NAV[2 * count :]
            jsd_CA = jensen_shannon(first, second, self.config.temperature)
        values: list[float] = token_mean(jsd_CA, batch["mask_NA"][2 * count :]).tolist()
        return values
