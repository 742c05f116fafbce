"""The Hugging Face trainer with the verifier's loss; a batch is states, each with all its
candidates.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer

from learners.common.packing import AnswerRow, can_share_prompt
from learners.verifier.losses import verifier_loss
from learners.verifier.network import answer_scores, value_batch

MEASURES = ("loss/bce", "loss/pairwise")


def load_backbone(path: str, **settings: Any) -> Any:
    """Any Hugging Face backbone with a scalar head that starts at zero: V is 1/2 everywhere, on any
    number of ranks alike. `settings` is what `from_pretrained` is told besides.
    """
    from transformers import AutoConfig, AutoModelForTokenClassification

    config = AutoConfig.from_pretrained(path, num_labels=1)
    config.classifier_dropout = (
        0.0  # a causal model's class reads it here, and its constructor does not take it
    )
    model: Any = AutoModelForTokenClassification.from_pretrained(path, config=config, **settings)
    model.config.use_cache = False
    head = getattr(model, "score", None) or model.classifier
    parameters = list(head.parameters())
    if hasattr(parameters[0], "ds_id"):
        import deepspeed

        with deepspeed.zero.GatheredParameters(parameters, modifier_rank=0):
            torch.nn.ModuleList([head]).apply(_zero)
    else:
        head.apply(_zero)
    return model


def _zero(module: Any) -> None:
    for parameter in module.parameters(recurse=False):
        torch.nn.init.zeros_(parameter)


class VerifierTrainer(Trainer):  # type: ignore[misc]
    """L = mean over states of BCE + pairwise_weight * pairwise."""

    def __init__(self, *arguments: Any, pairwise_weight: float, **options: Any) -> None:
        super().__init__(*arguments, data_collator=self._collate, **options)
        self._pairwise_weight = pairwise_weight
        self._share = can_share_prompt(self.model)
        self._sums: list[Tensor] = []
        self.model_accepts_loss_kwargs = (
            False  # the loss is a mean over the micro-batch's states: accumulation divides it
        )

    def _collate(self, examples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        states = [AnswerRow(e["prompt_ids"], tuple(e["answer_ids"])) for e in examples]
        group = [g for g, e in enumerate(examples) for _ in e["values"]]
        values = torch.tensor([value for e in examples for value in e["values"]])
        return {
            **value_batch(states, 0, self._share),
            "values_N": values,
            "group_N": torch.tensor(group),
        }

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The loss of one batch."""
        assert not return_outputs
        groups = int(inputs["group_N"][-1]) + 1
        bce_G, pairwise_G = verifier_loss(
            answer_scores(model, inputs), inputs["values_N"], inputs["group_N"], groups
        )
        sums = torch.stack(
            [bce_G.detach().sum(), pairwise_G.detach().sum(), bce_G.new_tensor(float(groups))]
        )
        self._sums.append(self.accelerator.reduce(sums, reduction="sum"))
        return (bce_G + self._pairwise_weight * pairwise_G).mean()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the terms' means since the last line."""
        if self._sums:
            bce, pairwise, groups = torch.stack(self._sums).sum(0).tolist()
            logs |= {"loss/bce": bce / groups, "loss/pairwise": pairwise / groups}
            self._sums.clear()
        super().log(logs, start_time)
