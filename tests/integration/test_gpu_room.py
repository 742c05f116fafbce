"""Where a cluster has fewer GPUs than engines and a learner hold together, they take turns. Ray only counts the GPU here."""

import contextlib
import time
from multiprocessing import get_context
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.mark.slow
def test_an_engine_makes_room_for_a_learner_and_comes_back(tmp_path: Path) -> None:
    process = get_context("spawn").Process(target=take_turns, args=(tmp_path,))  # a Ray of its own
    process.start()
    process.join(300)
    assert process.exitcode == 0


def take_turns(folder: Path) -> None:
    """Run in a fresh process."""
    import ray

    from r2v_dist.config import load_config
    from r2v_dist.crew import Crew
    from r2v_dist.run_dir import RunDir

    config = load_config(
        ROOT / "configs" / "textworld_demo.yaml", [f"run_dir={folder / 'run'}", f"slm.model={ROOT / 'models/textworld-tiny'}"]
    )
    ray.init(num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
    with contextlib.ExitStack() as stack:
        crew = Crew(config, RunDir(folder / "run"), stack)
        crew.__dict__["_ray"] = None  # joined already
        base = crew.base_checkpoint()
        crew.load_slm(base)
        crew.start_early()
        assert ray.available_resources().get("GPU", 0) == 0
        with crew.learner_progress("bc", folder / "metrics.jsonl", ranks=1):
            give_up = time.monotonic() + 60
            while ray.available_resources().get("GPU", 0) < 1:
                assert time.monotonic() < give_up, "the engine kept its GPU"
                time.sleep(0.5)
        crew.load_slm(base)  # answers again
        crew.start_early()
        assert ray.available_resources().get("GPU", 0) == 0
    ray.shutdown()
