"""TRL's SFTTrainer with little padding: an optimizer step's episodes are drawn as ever, and divided
into micro-batches by length.

The loss of a step is a mean over all its action tokens, so that how they are divided changes
nothing but the time.
"""

from typing import Any

from trl import SFTTrainer


class CloningTrainer(SFTTrainer):  # type: ignore[misc]
    """Asks for `train_sampling_strategy="batch_rebalance"`, and draws by `args.data_seed`."""

    def _get_train_sampler(self, *arguments: Any) -> Any:
        sampler = super()._get_train_sampler(*arguments)
        sampler.seed = self.args.data_seed  # which its constructor is not told
        return sampler
