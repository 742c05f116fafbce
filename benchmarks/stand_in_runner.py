"""An env runner that plays nothing: it delivers made-up episodes under the keys of its unit. What
is measured with it is everything behind the runners.
"""

from collections.abc import Sequence
from dataclasses import replace

from actors.env_runner import Deliver
from actors.ray_runner import EnvRunnerActor
from actors.totals import Totals
from benchmarks.episodes import make_episodes
from r2v_dist.episodes import Arm, Episode, Unit

KINDS = 64
"""Different episodes that a runner has."""


class StandInRunner(EnvRunnerActor):
    """A unit's `replica` says how many steps its episodes have, at most
    `benchmarks.episodes.STEPS`.
    """

    _made: Sequence[Episode] = ()

    async def run(self, unit: Unit, deliver: Deliver) -> Totals:
        """Deliver an episode for every arm."""
        if not self._made:
            self._made = make_episodes(KINDS)
        episodes = [self._episode(unit, arm) for arm in unit.arms]
        await deliver(episodes)
        steps = sum(len(episode.steps) for episode in episodes)
        return Totals(units=1, episodes=len(episodes), steps=steps)

    def _episode(self, unit: Unit, arm: Arm) -> Episode:
        key = unit.key(arm)
        made = self._made[hash(key) % KINDS]
        return replace(made, key=key, arm=arm, steps=made.steps[: unit.replica])
