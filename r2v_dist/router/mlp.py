"""A network with SiLU and one output, as numpy runs it at a live step."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Mlp:
    """(weight [out, in], bias [out]) of each layer; or H networks of equal sizes at once, both with
    a leading axis H.
    """

    layers: tuple[tuple[Array, Array], ...]

    def __call__(self, x_NI: Array) -> Array:
        """Logits [N] of the single output, or [H, N]."""
        *hidden, (last_IO, last_O) = self._transposed
        for weight_IO, bias_O in hidden:
            half_NO = x_NI @ weight_IO + bias_O
            # SiLU(2 h) = h (1 + tanh h), in place: a live decision costs little but its numpy
            # calls.
            x_NI = np.tanh(half_NO)
            x_NI += 1.0
            x_NI *= half_NO
        logits_N: Array = (x_NI @ last_IO + last_O)[..., 0]
        return logits_N

    @cached_property
    def _transposed(self) -> list[tuple[Array, Array]]:
        """(weight [in, out], bias), those of hidden layers halved, which is exact."""
        scales = [0.5] * (len(self.layers) - 1) + [1.0]
        return [
            (np.ascontiguousarray(scale * weight.swapaxes(-1, -2)), scale * bias[..., None, :])
            for scale, (weight, bias) in zip(scales, self.layers, strict=True)
        ]
