"""What the terminal is given of texts from outside."""

from dataclasses import replace
from pathlib import Path

import pytest

from r2v_dist.cli.main import main
from r2v_dist.episodes import Arm, Episode, EpisodeKey, Step, StopReason
from r2v_dist.storage import rollouts as rollout_store

ESCAPE = "\x1b]0;owned\x07\x1b[2J\x9b2J"


def _episode() -> Episode:
    arm = Arm("slm_only", None, "bc-1", "expert", 0)
    step = Step(
        f"a{ESCAPE}\n\tsee", "clean", (), "slm", f"go{ESCAPE}", None, True, 0.5, None, 1, 2, False
    )
    key = EpisodeKey("evaluate", "hash", "task", 7, arm.id, 0)
    return Episode(
        key, "test", arm, f"goal{ESCAPE}", (step,), False, StopReason.STEP_LIMIT, f"end{ESCAPE}"
    )


def test_what_a_program_has_printed_is_shown_and_not_obeyed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = replace(_episode(), detail=f"because{ESCAPE}")
    rollout_store.commit(tmp_path / "rollouts" / "evaluate", 0, [failed])
    main(["rollouts", str(tmp_path)])
    shown = capsys.readouterr().out
    assert not {"\x1b", "\x07", "\x9b"} & set(shown)
    for text in ("goal", "a", "go", "end", "because"):
        assert f"{text}\\x1b]0;owned\\x07\\x1b[2J\\x9b2J" in shown.replace("\n", "")


def test_a_complaint_is_one_line_without_commands_to_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["report", f"{tmp_path}/a\nb\x1b[2J"])
    [line] = capsys.readouterr().err.splitlines()
    assert "a\\nb\\x1b[2J: not a run directory" in line
