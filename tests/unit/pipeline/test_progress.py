"""The time that is left counts what this attempt has done, not what an earlier one had."""

import pytest

from r2v_dist.pipeline.progress import Progress


@pytest.mark.parametrize(
    ("updates", "lines"),
    [
        pytest.param(
            [(30.0, 10), (60.0, 20)],
            ["[bc] 10/40  ETA 90 s", "[bc] 20/40  ETA 60 s"],
            id="from the beginning",
        ),
        pytest.param(
            [(0.5, 20), (30.0, 20), (60.0, 30)],
            ["[bc] 20/40  30 s", "[bc] 30/40  ETA 60 s"],
            id="continued",
        ),
        pytest.param([(0.5, 20), (30.0, 40)], ["[bc] 40/40  30 s"], id="done"),
    ],
)
def test_the_pace_is_this_attempts(
    updates: list[tuple[float, int]],
    lines: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = 0.0
    monkeypatch.setattr("r2v_dist.pipeline.progress.time.monotonic", lambda: now)
    monkeypatch.setattr("sys.stderr.isatty", lambda: False)
    progress = Progress("bc")
    for moment, done in updates:
        now = moment
        progress.update(done, 40)
    assert capsys.readouterr().err.splitlines() == lines
