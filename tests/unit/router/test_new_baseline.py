"""A router baseline is one function and one row: a copy of the package gets both, no more."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.runs import ROOT

FUNCTION = '''

def longest_action(context: StepContext, proposal: Answer) -> float:
    """Words of the longest candidate."""
    return float(max((len(one.text.split()) for one in proposal.candidates), default=0))
'''
ROW = '_unfitted("wordy", "wordy proposals", "#999999", "o", "longest_action"),'
PROGRAM = """
from pathlib import Path
from r2v_dist.config.run import load_config
from r2v_dist.language_model import Answer, Candidate
from r2v_dist.report.figures.palette import LABELS, listed
from r2v_dist.router.registry import build_router
from r2v_dist.router.step_context import StepContext

config = load_config(Path("CONFIG"), [])
assert "wordy" in config.evaluate.routers
assert "wordy" in config.swept
assert listed("wordy") == "wordy proposals, unfitted"
answer = Answer((Candidate("look"), Candidate("open the red door")), "p")
context = StepContext(t=0, draw=("task", 0, 0))
assert build_router("wordy", 4.0).needs_proposal(context)
assert build_router("wordy", 4.0).decide(context, answer).escalate
assert not build_router("wordy", 4.5).decide(context, answer).escalate
print("built")
"""


def test_a_baseline_is_one_function_and_one_row(tmp_path: Path) -> None:
    shutil.copytree(
        ROOT / "r2v_dist", tmp_path / "r2v_dist", ignore=shutil.ignore_patterns("__pycache__")
    )
    room = tmp_path / "r2v_dist" / "router"
    with (room / "baselines.py").open("a") as baselines:
        baselines.write(FUNCTION)
    names = (room / "names.py").read_text()
    place = "    # -- fitted, plainer than r2v\n"
    assert names.count(place) == 1
    (room / "names.py").write_text(names.replace(place, f"    {ROW}\n{place}"))
    program = PROGRAM.replace("CONFIG", str(ROOT / "configs" / "textworld_demo.yaml"))
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "built"
