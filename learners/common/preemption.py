"""A checkpoint before a node goes: when Ray announces that a node of the ranks is to be taken away,
every rank saves at the end of the same step, once for each announcement.
"""

import os
import time
from typing import Any

from cluster.environment import PREEMPTION_WATCHER

LOOK_EVERY_S = 2.0
"""Ray's answer is a meeting of all ranks, which a short step would feel."""


def may_be_announced() -> bool:
    """Whether anybody tells this rank. Every rank of a learner gives the same answer."""
    return os.environ.get(PREEMPTION_WATCHER) != "0"


def preemption_watch() -> Any:
    """A trainer's callback that saves when a node is announced to go. Every rank has to have it."""
    import ray.train
    import torch
    from transformers import TrainerCallback

    class PreemptionWatch(TrainerCallback):  # type: ignore[misc]
        """The first rank's clock says when all of them ask Ray."""

        looked_at = 0.0
        saved_for: Any = None

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            is_due = torch.tensor([time.monotonic() - self.looked_at > LOOK_EVERY_S])
            is_due = is_due.to(args.device)
            torch.distributed.broadcast(is_due, src=0)
            if not is_due.item():
                return
            self.looked_at = time.monotonic()
            announced = ray.train.get_preemption_info()
            if announced is not None and announced != self.saved_for:
                self.saved_for = announced
                control.should_save = True

    return PreemptionWatch()
