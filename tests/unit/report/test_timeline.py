"""What ran when, from what the run directory says, whatever died on the way."""

import json
from pathlib import Path

import pytest

from r2v_dist.files import append_json_line
from r2v_dist.report.timeline import asked_hours, bars
from r2v_dist.storage import timeline
from r2v_dist.storage.run_dir import RunDir


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """Two drivers: the first dies in its second stage, the second ends it. Times are hours."""
    run = RunDir(tmp_path)
    for driver, events in (
        (1, [(0, "begin", "slm engine"), (1, "ready", "slm engine")]),
        (2, [(10, "begin", "slm engine"), (11, "begin", "learner"), (12, "end", "learner")]),
    ):
        monkeypatch.setattr("os.getpid", lambda driver=driver: driver)
        written = timeline.Timeline(tmp_path)
        for hour, event, lane in events:
            monkeypatch.setattr("time.time", lambda hour=hour: hour * 3600.0)
            if event == "begin":
                written.begin(lane, 2, cpus=2.0, gpus=4.0)
            else:
                {"ready": written.ready, "end": written.end}[event](lane)
        monkeypatch.setattr("time.time", lambda: 13 * 3600.0)
        if driver == 2:
            written.end_all()
    for stage, rows in (("collect", [(0, 1)]), ("bc", [(2, 1), (10, 2)])):
        for hour, driver in rows:
            row = {"input_hash": "h", "started": hour * 3600.0, "pid": driver}
            append_json_line(run.stage(stage) / "attempts.jsonl", row)
    run.complete("collect", "h", 3600.0, {})
    run.complete("bc", "h", 3 * 3600.0, {})
    monkeypatch.setattr("os.getpid", lambda: 3)
    return run


def test_attempts_and_processes_have_their_times(run: RunDir) -> None:
    shown = bars(run, ["tasks", "collect", "bc"])
    told = [(bar.row, bar.begun / 3600, bar.ended / 3600, bar.cut) for bar in shown]
    assert told == [
        ("collect", 0, 1, False),
        ("bc", 2, 2, True),  # the last sign of life of its driver
        ("bc", 10, 13, False),
        ("slm engine", 0, 2, True),
        ("slm engine", 10, 13, False),
        ("learner", 11, 12, False),
    ]
    assert [bar.ready_s for bar in shown[3:]] == [3600.0, None, None]


def test_what_a_stage_asked_for_is_what_was_there_meanwhile(run: RunDir) -> None:
    shown = bars(run, ["collect", "bc"])
    assert asked_hours(shown, "collect") == {"cpu_hours": 2.0, "gpu_hours": 4.0}
    assert asked_hours(shown, "bc") == {"cpu_hours": 2.0 * 4, "gpu_hours": 4.0 * 4}
    assert asked_hours(shown, "evaluate") == {"cpu_hours": 0.0, "gpu_hours": 0.0}


def test_a_damaged_timeline_costs_the_timeline_alone(
    run: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run.root / "timeline.jsonl"
    path.write_text("{]\n" + path.read_text())
    assert {bar.kind for bar in bars(run, ["collect", "bc"])} == {"stage"}
    assert "timeline.jsonl" in capsys.readouterr().err


def test_a_run_of_an_earlier_version_has_its_stages(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    attempts = run.stage("tasks") / "attempts.jsonl"
    attempts.write_text(json.dumps({"input_hash": "h", "started": 5.0}) + "\n")
    run.complete("tasks", "h", 2.0, {})
    [bar] = bars(run, ["tasks"])
    assert (bar.begun, bar.ended, bar.cut) == (5.0, 7.0, False)
