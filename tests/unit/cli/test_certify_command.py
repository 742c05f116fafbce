"""`r2v certify` on the calibration episodes of a run, without playing any."""

from pathlib import Path

import pytest

from r2v_dist.cli.main import main
from r2v_dist.config.run import load_config
from r2v_dist.episodes import Arm, Episode, EpisodeKey, StopReason
from r2v_dist.storage import rollouts as rollout_store
from r2v_dist.storage.run_dir import RunDir
from tests.runs import ROOT

SIMULATED = ROOT / "configs" / "textworld_simulated.yaml"
TASKS, SEEDS = 60, 10


def calibrated(root: Path, failures: dict[float, int]) -> RunDir:
    """A run whose first calibration task fails so many of its ten seeds at each threshold."""
    run = RunDir(root)
    run.write_config(load_config(SIMULATED, [f"run_dir={root}"]))
    episodes = []
    for threshold, failed in failures.items():
        arm = Arm("r2v", threshold, "simulated", "expert", 0)
        for task in range(TASKS):
            for z in range(SEEDS):
                key = EpisodeKey("calibrate", "hash", f"game{task:02d}", z, arm.id, 0)
                won = task > 0 or z >= failed
                ended = StopReason.WON if won else StopReason.STEP_LIMIT
                episodes.append(Episode(key, "calibration", arm, "win", (), won, ended, "end"))
    rollout_store.commit(run.rollouts("calibrate"), 0, episodes)
    run.begin("calibrate", "hash")
    run.complete("calibrate", "hash", 1.0, {"thresholds": sorted(failures)})
    return run


@pytest.mark.parametrize("failed", range(SEEDS + 1))
def test_a_task_that_fails_nearly_every_seed_is_certified_by_cvar(
    tmp_path: Path, failed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    run = calibrated(tmp_path / "run", {-1e9: 0, 0.5: failed})
    main(["certify", str(run.root), "--statistic", "cvar", "--risk", "0.1"])
    # The worst fifth of ten seeds is two of them, so two failures are a loss of 1 already.
    loss = min(failed, 2) / 2 / TASKS
    assert f"{loss:.3f}" in capsys.readouterr().out


def test_where_no_threshold_is_certified_the_teacher_may_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = calibrated(tmp_path / "run", {-1e9: 0, 0.5: SEEDS})
    main(["certify", str(run.root), "--risk", "0.04"])
    first, why, *_ = capsys.readouterr().out.splitlines()[1:]
    assert first.startswith("Calling the teacher at every step: on a new task, the chance to fail")
    assert why.startswith("Why no cheaper one: the next cheaper threshold cannot be certified")
