"""An env runner as a process of its own."""

import asyncio
import faulthandler
import os

from actors.env_runner import Deliver, EnvRunner
from actors.totals import Totals
from cluster.post_mortem import Place, here
from r2v_dist.episodes import Unit

_STDERR = 2


class EnvRunnerActor(EnvRunner):
    """Ends its process where one call into an environment holds it for `env_deadline_s`: nothing
    else can, since the call may hold the interpreter. Its log then shows where it was.
    """

    _units = 0
    _heart: "asyncio.Task[None] | None" = None

    def where(self) -> Place:
        """Answers once the runner has started."""
        return here(os.getpid())

    async def run(self, unit: Unit, deliver: Deliver) -> Totals:
        """As `EnvRunner.run`."""
        self._units += 1
        if self._heart is None:
            self._arm()
            self._heart = asyncio.create_task(self._beat())
        try:
            return await super().run(unit, deliver)
        finally:
            self._units -= 1
            if not self._units:
                self._heart.cancel()
                self._heart = None
                faulthandler.cancel_dump_traceback_later()

    async def _beat(self) -> None:
        """Put the end off, as long as this loop goes round."""
        while True:
            self._arm()
            await asyncio.sleep(self._setup.env_deadline_s / 10)

    def _arm(self) -> None:
        faulthandler.dump_traceback_later(self._setup.env_deadline_s, exit=True, file=_STDERR)
