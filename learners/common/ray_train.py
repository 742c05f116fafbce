"""Starts the ranks of a learner with Ray Train and hands DeepSpeed to TRL, on CUDA and on CPU
machines alike.

On a CPU machine accelerate would silently fall back to plain data parallelism;
`deepspeed_arguments` prevents it, and every learner checks with `require_deepspeed` that the engine
it trained with was DeepSpeed's.
"""

import json
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster import environment, resources
from r2v_dist import files
from r2v_dist.config.deepspeed import DeepSpeedConfig
from r2v_dist.errors import RuntimeFailure, Superseded, UsageError, warn
from r2v_dist.files import write_atomically
from r2v_dist.object_storage.mirror import at_hand, of, shown

if TYPE_CHECKING:
    from learners.common.rank_deaths import RankDeaths

_VERDICT = "verdict*.json"
_TURN_S, _TURN_FAR_S = 0.2, 2.0
"""Between two looks for it, in a folder and at an address."""
_LOOK_S = 1.0
"""Least time between two looks at ranks that may have died."""

Loop = Callable[[], None]
"""What a rank runs; it travels to the rank's process."""


def run_ranks(loop: Loop, deepspeed: DeepSpeedConfig, name: str, storage: Path) -> None:
    """Run `loop` on every rank; a rank that dies is started again from its last checkpoint.

    Raises UsageError where the cluster is too small for the ranks, and what a rank says is wrong
    with its input at once, without another try. Raises RuntimeFailure with the first cause when the
    ranks cannot be kept alive, or where no node joins that has room for them.
    """
    from learners.common.rank_deaths import RankDeaths  # imports Ray

    use_gpu = resources.learner_on_gpu(name)
    resources.require_room([resources.rank_bundle(name, deepspeed.ranks, use_gpu)])
    storage = storage.resolve()
    for read_before in _verdicts(storage):
        files.remove(read_before)
    # A name of its own: ranks of another driver may still run.
    verdict = storage / _VERDICT.replace("*", f"-{secrets.token_hex(4)}")
    deaths = RankDeaths(name)
    starts = 1
    while error := _fit(_trainer(loop, deepspeed, name, verdict, use_gpu), verdict, deaths):
        if starts > resources.decided().cluster.max_restarts or not _is_a_death(error):
            # A boundary: whatever ended the ranks, the user gets its first cause.
            lines = [f"learner {name}: {_innermost(error)}", deaths.last_words()]
            raise RuntimeFailure("\n".join(filter(None, lines))) from None
        warn(
            f"learner {name}: Ray Train ended ({starts}) and is started again: {_innermost(error)}"
        )
        starts += 1


def _fit(trainer: Any, verdict: Path, deaths: "RankDeaths") -> BaseException | None:
    """Train; what ended the ranks before the end, None where nothing did. Raises what a rank says
    is wrong with its input.
    """
    outcome: Future[None] = Future()

    def fit() -> None:
        try:
            trainer.fit()
            outcome.set_result(None)
        except BaseException as error:
            outcome.set_exception(error)

    # In the main thread Ray Train takes Ctrl-C to itself, and then waits for ranks that wait for
    # room.
    threading.Thread(target=fit, daemon=True).start()
    turn_s = _TURN_FAR_S if of(verdict) else _TURN_S
    looked = time.monotonic()
    while not outcome.done():
        _raise_verdict(verdict)
        wait([outcome], timeout=turn_s)
        if time.monotonic() - looked >= _LOOK_S:
            deaths.look()
            looked = time.monotonic()
    deaths.look()
    _raise_verdict(verdict)
    return outcome.exception()


def _is_a_death(error: BaseException) -> bool:
    """Whether Ray Train ended with a process, its own or that of a rank while it started, which it
    takes for a failure of its own and tries again once at most.
    """
    from ray.exceptions import RayActorError
    from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError

    failure = getattr(error, "controller_failure", error)
    return isinstance(failure, RayActorError | WorkerGroupStartupFailedError)


def _trainer(
    loop: Loop,
    deepspeed: DeepSpeedConfig,
    name: str,
    verdict: Path,
    use_gpu: bool,
) -> Any:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from learners.common.gloo import TorchBetweenNodes

    cluster = resources.decided().cluster
    variables = environment.of_rank(deepspeed.threads_per_rank, use_gpu) | resources.variables()
    return TorchTrainer(
        _rank,
        train_loop_config={"loop": loop, "verdict": str(verdict)},
        torch_config=TorchBetweenNodes(timeout_s=cluster.collective_timeout_s),
        scaling_config=ScalingConfig(
            num_workers=deepspeed.ranks,
            use_gpu=use_gpu,
            resources_per_worker=resources.rank_resources(name),
        ),
        run_config=RunConfig(
            name=name,
            storage_path=shown(verdict.parent),
            failure_config=FailureConfig(
                max_failures=cluster.max_restarts,
                # A start of the ranks waits for room as long as cluster.wait_for_resources_s says.
                controller_failure_limit=1,
                # A node that is taken away is nobody's fault, and each time has new steps to show.
                max_preemption_failures=-1,
            ),
            worker_runtime_env={"env_vars": variables},
        ),
    )


def _rank(config: dict[str, Any]) -> None:
    """What a rank runs. What our own code says about its input is true on every try, so that it is
    left for the driver to read.
    """
    try:
        config["loop"]()
    except Superseded:
        raise
    except (UsageError, RuntimeFailure) as error:
        verdict = {"usage": isinstance(error, UsageError), "message": str(error)}
        write_atomically(Path(config["verdict"]), json.dumps(verdict))
        raise


def _verdicts(storage: Path) -> list[Path]:
    """What ranks have left to read in a folder or at its address."""
    mirror = of(storage)
    names = mirror.names(storage) if mirror else [path.name for path in storage.glob(_VERDICT)]
    return [storage / name for name in names if fnmatch(name, _VERDICT)]


def _raise_verdict(path: Path) -> None:
    if at_hand(path).is_file():
        verdict = json.loads(path.read_text(encoding="utf-8"))
        raise (UsageError if verdict["usage"] else RuntimeFailure)(verdict["message"])


def _innermost(error: BaseException) -> str:
    failures = getattr(error, "worker_failures", None)
    if failures:
        return _innermost(next(iter(failures.values())))
    if (failure := getattr(error, "controller_failure", None)) is not None:
        # Ray Train goes on with a page of what may be the matter.
        message = " ".join(str(failure).split()).partition(" Potential causes")[0]
        return f"{type(failure).__name__}: {message}"[:500]
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1].strip() if lines else ''}"[:500]
