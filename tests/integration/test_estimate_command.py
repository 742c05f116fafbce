"""`r2v estimate` as a user types it, on a finished run and a log of a gateway; SLM and teacher are
scripted."""

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from r2v_dist.cli.main import main
from r2v_dist.router.exploration import Exploration
from tests.gateway_rig import USER, rig
from tests.integration.serving.test_learning import EXPLORING, parts, played
from tests.runs import ROOT


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50 judged conversations, of which a few explore."""
    folder = tmp_path_factory.mktemp("log")
    seldom = replace(EXPLORING, exploration=Exploration(0.1, (0.6, 0.8)), _watched={})
    asyncio.run(played(seldom, folder, range(50)))
    return folder


def test_thresholds_and_advice(
    simulated_run: Path, log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["estimate", str(simulated_run), str(log)])
    shown = capsys.readouterr().out
    assert "50 conversations judged, 50 used" in shown
    assert "* 0.75" in shown
    assert "the threshold" in shown.splitlines()[-1]
    main(["estimate", str(simulated_run), str(log), "--threshold", "0.75", "--json"])
    told = json.loads(capsys.readouterr().out)
    [row] = told["thresholds"]  # the one that is served
    assert 0 <= row["success_ci"][0] <= row["success"] <= row["success_ci"][1] <= 1
    assert told["psi"] == {}  # of fewer than 500 steps nothing is told
    assert told["router_version"] == "r-1"


def test_a_threshold_is_estimated_though_none_was_judged_at_the_one_that_is_served(
    simulated_run: Path, log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = replace(EXPLORING.points["selected"], threshold=0.33)
    policy = replace(EXPLORING, points={"selected": moved}, exploration=None, _watched={})

    async def unjudged() -> None:
        async with rig(**parts(policy), folder=tmp_path) as r:
            async with httpx.AsyncClient(base_url=r.url, timeout=20) as http:
                body = {"model": "r2v", "messages": USER}
                assert (await http.post("/v1/chat/completions", json=body)).status_code == 200
            assert r.log is not None
            r.log.flush()

    asyncio.run(unjudged())
    logs = [str(log), str(tmp_path)]
    main(["estimate", str(simulated_run), *logs, "--threshold", "0.75", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["threshold"] == 0.33
    assert [row["threshold"] for row in told["thresholds"]] == [0.75]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--threshold", "0.123"], "no overlap"),
        (["{empty}"], "no request log (*.arrows) is there"),
        (["--threshold", "high"], "--threshold"),
    ],
)
def test_what_cannot_be_estimated_is_told_in_a_line(
    simulated_run: Path,
    log: Path,
    tmp_path: Path,
    arguments: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [one.format(empty=tmp_path) for one in arguments]
    logs = [] if given[0] == str(tmp_path) else [str(log)]
    with pytest.raises(SystemExit) as caught:
        main(["estimate", str(simulated_run), *logs, *given])
    assert caught.value.code == 2
    errors = capsys.readouterr().err
    assert said in errors
    assert len(errors.splitlines()) == 1


def test_help_is_light() -> None:
    code = (
        "import json, sys; from r2v_dist.cli.main import main\n"
        "try: main(['estimate', '--help'])\n"
        "except SystemExit: pass\n"
        "print(json.dumps(sorted({'torch', 'ray', 'vllm', 'pyarrow'} & set(sys.modules))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=60, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout.splitlines()[-1]) == []
