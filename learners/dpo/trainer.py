"""TRL's DPOTrainer with the loss of docs/method.md, section 4: L = L_DPO + beta_c L_cons + beta_s
L_SFT(a+).

The policy's pass over a batch is one forward, second views included, and both views are trained.
The loss of a pair does not depend on its batch, so that any number of ranks and micro-batches gives
the same gradient.
"""

import contextlib
from typing import Any

import torch
from torch import Tensor
from trl import DPOTrainer

from learners.dpo.collator import answer_logits
from learners.dpo.losses import dpo_loss, jensen_shannon, token_log_probs, token_mean
from r2v_dist.config.learners import DPOConfig

MEASURES = (
    "loss/dpo",
    "loss/consistency",
    "loss/sft",
    "rewards/chosen",
    "rewards/rejected",
    "rewards/margins",
    "rewards/accuracies",
    "logps/chosen",
    "logps/rejected",
    "view_share",
)
"""What is logged beside the loss: means over the pairs; `loss/consistency` over those with a second
view, nan where none has.
"""


class PreferenceTrainer(DPOTrainer):  # type: ignore[misc]
    """Takes pairs that are token ids already, and PairCollator's batches.

    `view_share` is the share of pairs with a second view in the whole data set: L_cons is the mean
    over those pairs.
    """

    def __init__(self, *arguments: Any, loss: DPOConfig, view_share: float, **options: Any) -> None:
        self._loss = loss
        self._view_share = view_share
        super().__init__(*arguments, **options)

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset

    def compute_ref_log_probs(self, model: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """log pi_ref of a+ and a- [B]. Called before training, when policy and reference are the
        same.
        """
        with torch.no_grad(), self.accelerator.autocast():
            logps_NA = token_log_probs(
                answer_logits(model, inputs), inputs["target_NA"], inputs["mask_NA"]
            )
        pairs = (len(logps_NA) - len(inputs["viewed_C"])) // 2
        chosen_B, rejected_B = logps_NA.sum(1)[: 2 * pairs].chunk(2)
        return chosen_B, rejected_B

    def _compute_loss(self, model: Any, inputs: dict[str, Tensor], return_outputs: bool) -> Any:
        assert not return_outputs
        config = self._loss
        viewed_C = inputs["viewed_C"]
        mask_NA = inputs["mask_NA"]
        logits_NAV = answer_logits(model, inputs)
        pairs = (len(logits_NAV) - len(viewed_C)) // 2

        logps_NA = token_log_probs(logits_NAV, inputs["target_NA"], mask_NA)
        chosen_B, rejected_B = logps_NA[: 2 * pairs].sum(1).chunk(2)
        ratio_chosen_B = chosen_B - inputs["ref_chosen_logps"]
        ratio_rejected_B = rejected_B - inputs["ref_rejected_logps"]
        dpo_B = dpo_loss(ratio_chosen_B, ratio_rejected_B, config.beta)
        terms: dict[str, Tensor] = {"loss/dpo": dpo_B}
        loss = dpo_B.mean()

        # A term that is off must not be computed for the loss: even times zero it would turn an
        # overflow into nan.
        with contextlib.nullcontext() if config.beta_s else torch.no_grad():
            terms["loss/sft"] = -token_mean(logps_NA[:pairs], mask_NA[:pairs])
        if config.beta_s:
            loss = loss + config.beta_s * terms["loss/sft"].mean()

        if len(viewed_C):
            first_CAV = logits_NAV[:pairs][viewed_C]
            second_CAV = logits_NAV[2 * pairs :]
            jsd_CA = jensen_shannon(first_CAV, second_CAV, config.temperature)
            terms["loss/consistency"] = token_mean(jsd_CA, mask_NA[2 * pairs :])
            # Not the mean over the views of this batch: a rank with one view would weigh it as much
            # as one with many.
            views = pairs * self._view_share
            loss = loss + config.beta_c * terms["loss/consistency"].sum() / views

        terms |= self._rewards(ratio_chosen_B.detach(), ratio_rejected_B.detach())
        terms |= {"logps/chosen": chosen_B, "logps/rejected": rejected_B}
        self._note(terms, pairs)
        return loss

    def _rewards(self, ratio_chosen_B: Tensor, ratio_rejected_B: Tensor) -> dict[str, Tensor]:
        chosen_B = self._loss.beta * ratio_chosen_B
        rejected_B = self._loss.beta * ratio_rejected_B
        return {
            "rewards/chosen": chosen_B,
            "rewards/rejected": rejected_B,
            "rewards/margins": chosen_B - rejected_B,
            "rewards/accuracies": (chosen_B > rejected_B).float(),
        }

    def _note(self, terms: dict[str, Tensor], pairs: int) -> None:
        """Add a batch's sums, over all ranks, to what the next log line averages."""
        views = terms.setdefault("loss/consistency", terms["loss/dpo"].new_zeros(0))
        sums = torch.stack([terms[name].detach().sum() for name in MEASURES[:-1]])
        counts = torch.tensor([pairs, len(views)], dtype=sums.dtype, device=sums.device)
        totals = self.accelerator.reduce(torch.cat([sums, counts]), reduction="sum")
        self._metrics["train"]["sums"].append(totals)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means since the last line."""
        if batches := self._metrics["train"].pop("sums", None):
            *sums, pairs, views = torch.stack(batches).sum(0).tolist()
            for name, total in zip(MEASURES[:-1], sums, strict=True):
                count = views if name == "loss/consistency" else pairs
                logs[name] = total / count if count else float("nan")
            logs["view_share"] = views / pairs
        super().log(logs, start_time)
