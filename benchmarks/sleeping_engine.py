"""An engine that computes nothing: every request takes a given time, as many at once as
`max_num_seqs` allows. What is measured or tested with it is everything around an engine.
"""

import asyncio
import time
from urllib.parse import parse_qsl

from actors.vllm.engine import EngineAnswer, EngineRequest, Site
from r2v_dist.config.models import ModelConfig
from r2v_dist.errors import RuntimeFailure
from r2v_dist.language_model import TopTokens


class SleepingEngine:
    """`path` says how it behaves, for example `answer_s=0.1&start_s=2&load_s=1&token=7`: seconds of
    an answer, of a start and of a change of weights, and the one token of every answer. With
    `tokens=4`, candidates are any of so many tokens from that one on, by the request's seed.
    """

    def __init__(self, config: ModelConfig, path: str, site: Site) -> None:
        print(f"an engine that sleeps: {path}", flush=True)
        self._slots = asyncio.Semaphore(config.max_num_seqs)
        self._read(path)
        time.sleep(self._start_s)

    async def warm_up(self) -> None: ...

    def check(self) -> None: ...

    async def generate(self, request: EngineRequest) -> EngineAnswer:
        """The token, in all candidates. Raises ValueError for a negative prompt token."""
        if min(request.prompt_ids) < 0:
            raise ValueError("no such token")
        async with self._slots:
            await asyncio.sleep(self._answer_s)
        ids = [[self._token + (request.seed + i) % self._tokens] for i in range(request.n)]
        return EngineAnswer(ids, [[-0.1]] * request.n, TopTokens.of([(ids[0][0], -0.1)]))

    async def reload(self, path: str, adapter: str = "") -> None:
        """Behave as this path says."""
        self._read(path)
        await asyncio.sleep(self._load_s)

    async def sleep(self) -> None:
        """Take as long as a change of weights."""
        await asyncio.sleep(self._load_s)

    async def wake(self, path: str, adapter: str = "") -> None:
        """As `reload`."""
        await self.reload(path)

    def _read(self, path: str) -> None:
        try:
            times = {name: float(value) for name, value in parse_qsl(path)}
        except ValueError as error:
            raise RuntimeFailure(f"no such behaviour: {error}") from None
        self._answer_s = times.get("answer_s", 0.0)
        self._start_s = times.get("start_s", 0.0)
        self._load_s = times.get("load_s", 0.0)
        self._token = int(times.get("token", 5))
        self._tokens = int(times.get("tokens", 1))
