"""Engine and verifier share a GPU; a learner, which wants one whole, takes turns with them. Ray
only counts the GPU here.
"""

import contextlib
import os
import time
from multiprocessing import get_context
from pathlib import Path

import pytest

from tests.runs import ROOT


@pytest.mark.slow
def test_an_engine_makes_room_for_a_learner_and_comes_back(tmp_path: Path) -> None:
    process = get_context("spawn").Process(target=take_turns, args=(tmp_path,))  # a Ray of its own
    process.start()
    process.join(300)
    assert process.exitcode == 0


def take_turns(folder: Path) -> None:
    """Run in a fresh process."""
    import ray

    from cluster.environment import ENGINE_WITHOUT_GPU
    from r2v_dist.config.run import load_config
    from r2v_dist.errors import UsageError
    from r2v_dist.pipeline.services import Services
    from r2v_dist.storage.run_dir import RunDir

    config = load_config(
        ROOT / "configs" / "textworld_demo.yaml",
        [f"run_dir={folder / 'run'}", f"slm.model={ROOT / 'models/textworld-tiny'}"],
    )
    os.environ.update(ENGINE_WITHOUT_GPU)  # the engine believes that it has a GPU
    ray.init(num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
    with contextlib.ExitStack() as stack:
        services = Services(config, RunDir(folder / "run"), stack)
        services.__dict__["_session"] = None  # joined already
        base = services.base_checkpoint()
        services.load_slm(base)
        services.start_early()
        assert (
            1 > ray.available_resources()["GPU"] >= config.verifier.gpu_memory_utilization
        )  # the verifier finds room beside it
        with services.learner_progress("bc", folder / "metrics.jsonl", ranks=1):
            give_up = time.monotonic() + 60
            while ray.available_resources().get("GPU", 0) < 1:
                assert time.monotonic() < give_up, "the engine kept its GPU"
                time.sleep(0.5)
        services.load_slm(base)  # answers again
        services.start_early()
        assert ray.available_resources()["GPU"] < 1
        greedy = config.model_copy(
            update={"slm": config.slm.model_copy(update={"gpu_memory_utilization": 0.9})}
        )
        refused = Services(greedy, RunDir(folder / "refused"), stack)
        refused.__dict__["_session"] = None
        with pytest.raises(
            UsageError,
            match=r"slm.* \+ verifier.gpu_memory_utilization = 1.2 GPUs at the same time",
        ):
            refused.start_early()
    ray.shutdown()
