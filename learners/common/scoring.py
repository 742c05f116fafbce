"""Numbers for the rows of a table, computed with a model: by one actor, or by several on Ray Data
where there are many rows. The driver, which has neither a GPU nor room for a model, loads none.

Invariant: one number a row, in the order of the rows, and the same (to rounding) wherever and
together with whichever other rows it is computed.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from queue import Empty, Queue
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cluster import environment, resources
from r2v_dist.config.deepspeed import DeepSpeedConfig
from r2v_dist.errors import RuntimeFailure, UsageError

if TYPE_CHECKING:
    from ray.data import Dataset

FEW = 4096
"""Rows that one actor scores; for more, others are started."""
_BATCH = 256
"""Rows that are scored together."""
_NUMBER = "row"

Scores = npt.NDArray[np.float64]
Scorer = Callable[[pa.Table], Scores]
"""A number for every row."""
LoadScorer = Callable[[], Scorer]
"""Loads the model, on the processor or GPU that its process sees. Picklable."""
ScoreRows = Callable[[str, LoadScorer, pa.Table], Scores]
"""What is computed (in words, for messages), how, and of which rows."""


def in_this_process(what: str, load: LoadScorer, table: pa.Table) -> Scores:
    """Load the model here."""
    return load()(table)


@dataclass(frozen=True)
class OnCluster:
    """Scores where the ranks of a learner would compute: on a GPU each, or with as many threads.

    Raises RuntimeFailure where there is no room in time, and where nothing is scored for
    `cluster.stall_deadline_s`.
    """

    learner: str
    deepspeed: DeepSpeedConfig

    def __call__(self, what: str, load: LoadScorer, table: pa.Table) -> Scores:
        gpu = resources.learner_on_gpu(self.learner)
        resources.require_room([resources.rank_bundle(self.learner, 1, gpu)])
        score = _by_one_actor if len(table) <= FEW else _on_ray_data
        return score(what, load, table, self.options(gpu), self.deepspeed.ranks)

    def options(self, gpu: bool) -> dict[str, Any]:
        """What Ray is asked for: as much as for a rank, which finds room where engines sleep."""
        variables = environment.of_scorer(self.deepspeed.threads_per_rank, gpu)
        return {
            "num_cpus": 1,
            "num_gpus": resources.rank_resources(self.learner).get("GPU", 0),
            "runtime_env": {"env_vars": variables | resources.variables()},
        }


class ScoringActor:
    """A model that scores, in a process of its own. It is loaded by the first call, because of an
    error in a constructor Ray keeps the text only.
    """

    def __init__(self, load: LoadScorer) -> None:
        self._load = load

    @cached_property
    def _scorer(self) -> Scorer:
        return self._load()

    def score(self, table: pa.Table) -> Scores:
        """A number for every row."""
        return self._scorer(table)

    def __call__(self, numbered: pa.Table) -> pa.Table:
        """As `score`, beside the rows' numbers."""
        scores = self._scorer(numbered.drop_columns([_NUMBER]))
        return pa.table({_NUMBER: numbered[_NUMBER], "score": scores})


def _by_one_actor(
    what: str, load: LoadScorer, table: pa.Table, options: dict[str, Any], _: int
) -> Scores:
    import ray

    retries = resources.decided().cluster.max_restarts
    remote = ray.remote(ScoringActor).options(
        max_restarts=retries, max_task_retries=retries, **options
    )
    actor = remote.remote(load)
    try:
        score_refs = [actor.score.remote(part) for part in _parts(table)]
        return np.concatenate([np.empty(0), *_awaited(what, map(ray.get, score_refs))])
    finally:
        ray.kill(actor)


def _on_ray_data(
    what: str, load: LoadScorer, table: pa.Table, options: dict[str, Any], max_actors: int
) -> Scores:
    numbered = table.append_column(_NUMBER, pa.array(np.arange(len(table))))
    scores = np.empty(len(table))
    unscored = len(table)
    batches = _scored(numbered, load, options, max_actors).iter_batches(
        batch_size=None, batch_format="numpy"
    )
    for batch in _awaited(what, batches):
        scores[batch[_NUMBER]] = batch["score"]
        unscored -= len(batch[_NUMBER])
    if unscored:
        raise RuntimeFailure(f"{what}: {unscored} of {len(table)} rows were not scored")
    return scores


def _scored(
    numbered: pa.Table, load: LoadScorer, options: dict[str, Any], max_actors: int
) -> "Dataset":
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    return ray.data.from_arrow(list(_parts(numbered))).map_batches(
        ScoringActor,
        fn_constructor_args=(load,),
        batch_size=_BATCH,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=max_actors),
        **options,
    )


def _parts(table: pa.Table) -> Iterator[pa.Table]:
    for start in range(0, len(table), _BATCH):
        yield table.slice(start, _BATCH)


def _awaited(what: str, results: Iterable[Any]) -> Iterator[Any]:
    """Results in their order. Raises RuntimeFailure where the next one does not come in time; the
    first one has the time besides that an actor has to be placed and to load its model.
    """
    cluster = resources.decided().cluster
    arrivals: Queue[tuple[str, Any]] = Queue()

    def fetch() -> None:
        try:
            for result in results:
                arrivals.put(("result", result))
            arrivals.put(("end", None))
        except BaseException as error:
            arrivals.put(("error", error))

    threading.Thread(target=fetch, daemon=True).start()
    deadline_s = cluster.stall_deadline_s
    longest_s = cluster.wait_for_resources_s + cluster.engine_start_deadline_s + deadline_s
    while True:
        try:
            kind, content = arrivals.get(timeout=longest_s)
        except Empty:
            raise RuntimeFailure(
                f"{what}: nothing was scored within {longest_s:g} s (cluster.stall_deadline_s)"
            ) from None
        if kind == "end":
            return
        if kind == "error":
            raise _failure(what, content) from None
        yield content
        longest_s = deadline_s


def _failure(what: str, error: BaseException) -> BaseException:
    """What our own code said, or the first cause in one line."""
    cause: BaseException = error
    while (inner := getattr(cause, "cause", None) or cause.__cause__) not in (None, cause):
        cause = inner
        if isinstance(cause, UsageError | RuntimeFailure):
            return cause
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return RuntimeFailure(f"{what}: {type(cause).__name__}: {lines[-1] if lines else ''}"[:500])
