"""How the constraint on CVaR ended in training."""

from dataclasses import dataclass

from r2v_dist.config.learners import ConstraintStatus
from r2v_dist.config.router import RouterConfig

AT_BOUND = 0.1
"""CVaR is at its bound within this share of epsilon."""
AT_CAP = 0.99
"""Lambda is at its cap from this share of it on."""


@dataclass(frozen=True)
class Duality:
    """How the constraint ended: lambda, the mean CVaR and lambda of the last tenth of the steps,
    and the CVaR that training labels show for handing over at the first step of every episode.
    """

    multiplier: float
    late_multiplier: float
    late_cvar: float
    handed_over_cvar: float

    def status(self, config: RouterConfig) -> ConstraintStatus:
        """What the measured CVaR says.

        slack       it is below epsilon by more than `AT_BOUND`
        active      it is epsilon, within `AT_BOUND`
        violated    it is above epsilon by more than `AT_BOUND`
        infeasible  violated, and lambda is at its cap or teacher-only violates it too
        """
        low = (1 - AT_BOUND) * config.epsilon
        high = (1 + AT_BOUND) * config.epsilon
        if self.late_cvar <= high:
            return "slack" if self.late_cvar < low else "active"
        hopeless = (
            self.late_multiplier >= AT_CAP * config.lambda_max or self.handed_over_cvar > high
        )
        return "infeasible" if hopeless else "violated"
