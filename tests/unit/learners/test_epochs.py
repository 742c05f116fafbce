"""Training that goes on within a later epoch draws what that epoch has left, on any rank."""

import pytest
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from torch.utils.data import DataLoader, RandomSampler
from transformers.trainer_pt_utils import BatchRebalanceSampler

from learners.common.hf_trainer import tell_epoch


def loader(kind: str, ranks: int) -> DataLoader[int]:
    """The first rank's loader, as a trainer has it prepared."""
    examples = list(range(64))
    if kind == "by length":
        sampler = BatchRebalanceSampler(examples, 8, ranks, 8 // (2 * ranks))
        loader = prepare_data_loader(
            DataLoader(examples, batch_sampler=sampler),  # type: ignore[arg-type]
            num_processes=ranks,
            process_index=0,
        )
        if ranks > 1:
            loader.batch_sampler.num_processes = 1
        return loader
    return prepare_data_loader(
        DataLoader(examples, batch_size=2, sampler=RandomSampler(examples)),  # type: ignore[arg-type]
        num_processes=ranks,
        process_index=0,
        use_seedable_sampler=True,
        data_seed=0,
    )


def drawn(loader: DataLoader[int], epoch: int) -> list[list[int]]:
    """As a trainer draws an epoch."""
    loader.set_epoch(epoch)  # type: ignore[attr-defined]
    return [batch.tolist() for batch in loader]  # type: ignore[attr-defined]


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("kind", ["by length", "at random"])
def test_a_second_epoch_is_gone_on_with(kind: str, ranks: int) -> None:
    undisturbed = loader(kind, ranks)
    tell_epoch(undisturbed, 0)
    first = drawn(undisturbed, 0)
    tell_epoch(undisturbed, 1)
    second = drawn(undisturbed, 1)
    assert second != first
    again = loader(kind, ranks)
    tell_epoch(again, 1)
    assert drawn(skip_first_batches(again, 3), 1) == second[3:]
