"""`r2v serve` as a user types it, on a finished run, between clients and STUB endpoints."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from r2v_dist.cli.main import main
from tests.gateway_rig import USER, StubTeacher, served_stub
from tests.runs import ROOT

START_S = 120


def sides(url: str) -> list[str]:
    """Both sides at a stub."""
    return [f"{role}.{key}={value}" for role in ("slm", "teacher") for key, value in
            (("backend", "openai"), ("model", f"fine-{role}"), ("base_url", url))]  # fmt: skip


@asynccontextmanager
async def serving(run: Path, *arguments: str) -> AsyncIterator[tuple[str, Any]]:
    """The command, once it says where it is."""
    command = [sys.executable, "-m", "r2v_dist.cli", "serve", str(run), "--port=0", *arguments]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        line = (await asyncio.wait_for(process.stdout.readline(), START_S)).decode()
        if "r2v serves" not in line:
            _, errors = await process.communicate()
            raise AssertionError(errors.decode())
        yield line.split(" at ")[1].strip().removesuffix("/v1"), process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def test_a_finished_run_is_served_survives_a_kill_and_ends_in_grace(simulated_run: Path) -> None:
    async def case() -> None:
        teacher = StubTeacher(text=lambda body: "take the lamp", between_s=0.2)
        async with served_stub(teacher) as stub:
            messages: list[dict[str, Any]] = list(USER)
            async with serving(simulated_run, *sides(stub)) as (url, process):
                async with httpx.AsyncClient(base_url=url, timeout=30) as http:
                    body = {"model": "r2v", "messages": messages}
                    answer = (await http.post("/v1/chat/completions", json=body)).json()
                    assert 0 <= answer["r2v"]["risk"] <= 1
                    assert answer["r2v"]["uncalibrated"] == ["slm"]
                    messages.append(answer["choices"][0]["message"])
                    messages.append({"role": "user", "content": "and now?"})
                    await asyncio.sleep(1)  # until the log has it
                process.send_signal(signal.SIGKILL)
                await process.wait()
            async with serving(simulated_run, *sides(stub)) as (url, process):
                async with httpx.AsyncClient(base_url=url, timeout=30) as http:
                    body = {"model": "r2v", "messages": messages}
                    answer = (await http.post("/v1/chat/completions", json=body)).json()
                    assert answer["r2v"]["features"] == "exact"
                    told = {"model": "r2v-teacher", "messages": USER, "stream": True}
                    async with http.stream("POST", "/v1/chat/completions", json=told) as stream:
                        lines = aiter(stream.aiter_lines())
                        assert (await anext(lines)).startswith("data: ")
                        process.send_signal(signal.SIGTERM)
                        rest = [line async for line in lines if line]
                    assert rest[-1] == "data: [DONE]"
                assert await asyncio.wait_for(process.wait(), 20) == 0
            rows = list((simulated_run / "gateway" / "requests").glob("*.arrows"))
            assert len(rows) == 2

    asyncio.run(case())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "slm.backend = simulated"),
        (["serve.operating_point=best"], "serve.operating_point = best"),
        (["serve.router=oracle"], "serve.router = oracle"),
        (["serve.operating_pont=best"], "did you mean operating_point"),
    ],
)
def test_what_cannot_be_served_is_told_in_a_line(
    simulated_run: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*sides("http://127.0.0.1:9/v1"), *arguments] if arguments else []
    with pytest.raises(SystemExit) as caught:
        main(["serve", str(simulated_run), *given])
    assert caught.value.code == 2
    errors = capsys.readouterr().err
    assert said in errors
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize(
    "text", ["", '{"operating_points": [', '{"operating_points": [{"kind": 1}]}']
)
def test_a_damaged_summary_is_named(
    simulated_run: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = simulated_run / "report" / "summary.json"
    whole = path.read_text()
    path.write_text(text)
    try:
        with pytest.raises(SystemExit) as caught:
            main(["serve", str(simulated_run), *sides("http://127.0.0.1:9/v1")])
    finally:
        path.write_text(whole)
    assert caught.value.code == 2
    errors = capsys.readouterr().err
    assert str(path) in errors
    assert "r2v report" in errors
    assert len(errors.splitlines()) == 1


def test_a_planner_cannot_teach_an_agent(
    simulated_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slm = [one for one in sides("http://127.0.0.1:9/v1") if one.startswith("slm.")]
    with pytest.raises(SystemExit) as caught:
        main(["serve", str(simulated_run), *slm])
    assert caught.value.code == 2
    errors = capsys.readouterr().err
    assert "teacher.backend = expert is the environment's own planner" in errors
    assert "teacher.backend=openai teacher.model=NAME" in errors


def test_nobody_serves_the_whole_network_without_a_key(
    simulated_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("R2V_GATEWAY_KEYS", raising=False)
    with pytest.raises(SystemExit) as caught:
        main(["serve", str(simulated_run), "--host", "0.0.0.0", *sides("http://127.0.0.1:9/v1")])
    assert caught.value.code == 2
    assert "R2V_GATEWAY_KEYS" in capsys.readouterr().err


def test_help_is_light() -> None:
    code = (
        "import sys; from r2v_dist.cli.main import main\n"
        "try: main(['serve', '--help'])\n"
        "except SystemExit: pass\n"
        "print(json.dumps(sorted({'torch', 'ray', 'vllm', 'starlette'} & set(sys.modules))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import json; {code}"],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=60, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout.splitlines()[-1]) == []
