"""What one rank of the router learner holds: whole episodes of the label table, dealt out in the
order of the table.

Axes: N this rank's states, U different ones among them, F features, E its complete SLM-only
episodes, T steps, Z seeds.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from learners.router.losses import Episodes, Totals
from r2v_dist.evaluation.handover import LatchedEpisodes
from r2v_dist.labels.table import LabelTable
from r2v_dist.router.model import ESTIMATES, distinct

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scaler:
    """Standardisation fitted on the whole training split; a feature that never varies
    stays at 0.
    """

    mean_F: Array
    std_F: Array

    @classmethod
    def of(cls, labels: LabelTable) -> "Scaler":
        """Mean and standard deviation of every feature."""
        std_F = labels.features_NF.std(axis=0)
        return cls(labels.features_NF.mean(axis=0), np.where(std_F > 1e-9, std_F, 1.0))

    def __call__(self, features_NF: Array) -> Array:
        """Standardised features."""
        scaled_NF: Array = (features_NF - self.mean_F) / self.std_F
        return scaled_NF


@dataclass(frozen=True)
class Share:
    """One rank's part of the labels. `risk` and `n` are by the names in ESTIMATES; states without a
    label have n = 0.

    Heads are asked once for every different state; `place_N` says which one a state is.
    """

    f_UF: Tensor
    place_N: Tensor
    risk: dict[str, Tensor]
    n: dict[str, Tensor]
    n_total: dict[str, float]
    """n over all ranks."""
    places_ET: Tensor
    """The different state at each step of an episode; any where it has ended."""
    episodes: Episodes
    totals: Totals


def deal(labels: LabelTable, scaler: Scaler, rank: int, ranks: int, device: torch.device) -> Share:
    """The part of `rank`: every `ranks`-th episode. What is known of the whole batch is computed
    from the whole table.
    """
    mine_N = labels.episode % ranks == rank
    f_UF, place_N = distinct(scaler(labels.features_NF[mine_N]))
    row_N = np.cumsum(mine_N) - 1
    whole = LatchedEpisodes.of(labels)
    own = LatchedEpisodes.of(labels, mine_N)
    seeds_Z = np.unique(whole.z_E)

    def tensor(values: npt.NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(device)

    def per_seed(counts_E: Array) -> Tensor:
        return tensor(
            np.bincount(np.searchsorted(seeds_Z, whole.z_E), counts_E, minlength=len(seeds_Z))
        )

    weighted = {name: labels.weight * labels.counts[name] for name in ESTIMATES}
    return Share(
        f_UF=tensor(f_UF),
        place_N=tensor(place_N),
        risk={name: tensor(np.nan_to_num(getattr(labels, name)[mine_N])) for name in ESTIMATES},
        n={name: tensor(n[mine_N]) for name, n in weighted.items()},
        n_total={name: float(n.sum()) for name, n in weighted.items()},
        places_ET=tensor(np.where(own.mask_ET, place_N[row_N[own.rows_ET]], 0)),
        episodes=Episodes(
            tensor(own.mask_ET.astype(np.float64)),
            tensor(own.rhoT_ET),
            tensor(own.m_ET),
            tensor(own.lost_E),
            tensor(np.searchsorted(seeds_Z, own.z_E)),
        ),
        totals=Totals(
            ranks,
            per_seed(np.ones(len(whole))),
            per_seed(whole.mask_ET.sum(axis=1)),
            float(whole.m_ET[:, 0].mean()),
        ),
    )


def adder(device: torch.device) -> Callable[[Tensor], Tensor]:
    """Adds a tensor over all ranks of the running process group."""

    def add(values: Tensor) -> Tensor:
        summed = values.clone().to(device)
        torch.distributed.all_reduce(summed)
        return summed

    return add
