"""What the tests of programming tasks share."""

import os
from pathlib import Path

import pytest

DATA_DIR = os.environ.get("R2V_DATA_DIR", "")


def require_data() -> None:
    """Skips with the reason where the benchmarks' files are not at hand."""
    if not DATA_DIR or not (Path(DATA_DIR) / "humaneval" / "HumanEvalPlus.jsonl.gz").is_file():
        pytest.skip("R2V_DATA_DIR does not name a directory with HumanEval+ and MBPP+")
