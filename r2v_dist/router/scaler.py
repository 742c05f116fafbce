"""Features as a router's networks take them: cut to the range of the training states, standardised.

Networks that are given more than they have ever seen can saturate: they answer 0 or 1, for every
such state alike. So a feature beyond its range is taken at the edge of it.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
_LEAST_STD = 1e-9
"""A feature that spreads less never varies."""


@dataclass(frozen=True)
class Scaler:
    """Mean, standard deviation and range of every feature, each [F]; without a range nothing is
    cut.
    """

    mean_F: Array
    std_F: Array
    low_F: Array
    high_F: Array

    @classmethod
    def of(cls, features_NF: Array, weight_N: Array | None = None) -> Self:
        """Fitted on training states, of which the weights move the mean alone; a feature that never
        varies stays at 0.
        """
        std_F = features_NF.std(axis=0)
        mean_F = features_NF.mean(axis=0)
        if weight_N is not None:
            mean_F = (features_NF * weight_N[:, None]).sum(axis=0) / weight_N.sum()
        std_F = np.where(std_F > _LEAST_STD, std_F, 1.0)
        return cls(mean_F, std_F, features_NF.min(axis=0), features_NF.max(axis=0))

    @classmethod
    def unlimited(cls, mean_F: Array, std_F: Array) -> Self:
        """A scaler without a range."""
        return cls(mean_F, std_F, np.full_like(mean_F, -np.inf), np.full_like(mean_F, np.inf))

    @property
    def arrays(self) -> tuple[Array, Array, Array, Array]:
        """All that it consists of."""
        return self.mean_F, self.std_F, self.low_F, self.high_F

    def __call__(self, features_NF: Array, out_NF: Array | None = None) -> Array:
        """Standardised features, in `out_NF` if given."""
        scaled_NF = np.maximum(features_NF, self.low_F, out=out_NF)
        np.minimum(scaled_NF, self.high_F, out=scaled_NF)
        scaled_NF -= self.mean_F
        scaled_NF /= self.std_F
        return scaled_NF

    def outside(self, features_NF: Array) -> npt.NDArray[np.bool_]:
        """Which features lie beyond the range, [N, F]."""
        return (features_NF < self.low_F) | (features_NF > self.high_F)
