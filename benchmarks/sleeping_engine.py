"""An engine that computes nothing: every request takes a given time, as many at once as
`max_num_seqs` allows. What is measured or tested with it is everything around an engine.
"""

import asyncio
import time
from urllib.parse import parse_qsl

from actors.vllm.engine import EngineAnswer, EngineRequest, Site
from r2v_dist.config.models import ModelConfig
from r2v_dist.language_model import TopTokens


class SleepingEngine:
    """`path` says how it behaves, for example `answer_s=0.1&start_s=2&load_s=1`: seconds of an
    answer, of a start and of a change of weights.
    """

    def __init__(self, config: ModelConfig, path: str, site: Site) -> None:
        self._slots = asyncio.Semaphore(config.max_num_seqs)
        self._read(path)
        time.sleep(self._start_s)

    async def warm_up(self) -> None: ...

    def check(self) -> None: ...

    async def generate(self, request: EngineRequest) -> EngineAnswer:
        """Token 5 as often as may be. Raises ValueError for a negative prompt token."""
        if min(request.prompt_ids) < 0:
            raise ValueError("no such token")
        async with self._slots:
            await asyncio.sleep(self._answer_s)
        ids = [5] * min(4, request.max_tokens)
        return EngineAnswer(
            [ids] * request.n, [[-0.1] * len(ids)] * request.n, TopTokens.of([(5, -0.1)])
        )

    async def reload(self, path: str) -> None:
        """Behave as this path says."""
        self._read(path)
        await asyncio.sleep(self._load_s)

    def _read(self, path: str) -> None:
        times = {name: float(seconds) for name, seconds in parse_qsl(path)}
        self._answer_s = times.get("answer_s", 0.0)
        self._start_s = times.get("start_s", 0.0)
        self._load_s = times.get("load_s", 0.0)
