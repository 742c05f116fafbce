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
from r2v_dist.router.scaler import Scaler

Array = npt.NDArray[np.float64]


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
    in_share_N = labels.episode % ranks == rank
    f_UF, place_N = distinct(scaler(labels.features_NF[in_share_N]))
    all_episodes = LatchedEpisodes.of(labels)
    own_episodes = LatchedEpisodes.of(labels, in_share_N)
    seeds_Z = np.unique(all_episodes.z_E)
    risk: dict[str, Tensor] = {}
    n: dict[str, Tensor] = {}
    n_total: dict[str, float] = {}
    for name in ESTIMATES:
        n_N = labels.weight * labels.counts[name]
        risk[name] = _tensor(np.nan_to_num(getattr(labels, name)[in_share_N]), device)
        n[name] = _tensor(n_N[in_share_N], device)
        n_total[name] = float(n_N.sum())
    row_N = np.cumsum(in_share_N) - 1
    return Share(
        f_UF=_tensor(f_UF, device),
        place_N=_tensor(place_N, device),
        risk=risk,
        n=n,
        n_total=n_total,
        places_ET=_tensor(
            np.where(own_episodes.mask_ET, place_N[row_N[own_episodes.rows_ET]], 0), device
        ),
        episodes=_episodes(own_episodes, seeds_Z, device),
        totals=_totals(all_episodes, seeds_Z, ranks, device),
    )


def _episodes(
    latched: LatchedEpisodes, seeds_Z: npt.NDArray[np.int64], device: torch.device
) -> Episodes:
    return Episodes(
        mask_ET=_tensor(latched.mask_ET.astype(np.float64), device),
        rhoT_ET=_tensor(latched.rhoT_ET, device),
        m_ET=_tensor(latched.m_ET, device),
        lost_E=_tensor(latched.lost_E, device),
        seed_E=_tensor(np.searchsorted(seeds_Z, latched.z_E), device),
    )


def _totals(
    latched: LatchedEpisodes, seeds_Z: npt.NDArray[np.int64], ranks: int, device: torch.device
) -> Totals:
    seed_E = np.searchsorted(seeds_Z, latched.z_E)
    episodes_Z = np.bincount(seed_E, np.ones(len(latched)), minlength=len(seeds_Z))
    steps_Z = np.bincount(seed_E, latched.mask_ET.sum(axis=1), minlength=len(seeds_Z))
    return Totals(
        ranks=ranks,
        episodes_Z=_tensor(episodes_Z, device),
        steps_Z=_tensor(steps_Z, device),
        teacher_only=float(latched.m_ET[:, 0].mean()),
    )


def _tensor(values: npt.NDArray[np.generic], device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(device)


def adder(device: torch.device) -> Callable[[Tensor], Tensor]:
    """Adds a tensor over all ranks of the running process group."""

    def add(values: Tensor) -> Tensor:
        summed = values.clone().to(device)
        torch.distributed.all_reduce(summed)
        return summed

    return add
