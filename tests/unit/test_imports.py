"""No import runs against the direction that docs/architecture.md draws."""

import os

import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

from tests.runs import ROOT


def test_every_import_keeps_the_direction(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    status = lint_imports(config_filename=os.fspath(ROOT / "pyproject.toml"), no_cache=True)
    assert status == EXIT_STATUS_SUCCESS, capsys.readouterr().out
