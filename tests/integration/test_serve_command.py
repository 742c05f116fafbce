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
import psutil
import pytest

from r2v_dist.cli.main import main
from r2v_dist.serving.log import batches_of
from tests.gateway_rig import USER, StubTeacher, served_stub
from tests.runs import ROOT

START_S = 120


def sides(url: str) -> list[str]:
    """Both sides at a stub."""
    return [f"{role}.{key}={value}" for role in ("slm", "teacher") for key, value in
            (("backend", "openai"), ("model", f"fine-{role}"), ("base_url", url))]  # fmt: skip


def logs(run: Path) -> list[Path]:
    """Request logs, the oldest first."""
    return sorted((run / "gateway" / "requests").glob("*.arrows"))


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
        before = len(logs(simulated_run))
        teacher = StubTeacher(text=lambda body: "take the lamp", between_s=0.2)
        async with served_stub(teacher) as stub:
            messages: list[dict[str, Any]] = list(USER)
            async with serving(simulated_run, *sides(stub)) as (url, process):
                assert process.stdout is not None
                chosen = (await process.stdout.readline()).decode()
                assert chosen.startswith("selected, threshold ")
                assert "CVaR of failure at most 0.05 above the teacher's" in chosen
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
            assert len(logs(simulated_run)) == before + 2

    asyncio.run(case())


async def played(url: str) -> list[Any]:
    """What a client sees of some requests, less what names one answer."""
    seen: list[Any] = []
    messages: list[dict[str, Any]] = list(USER)
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        for model in ("r2v", "r2v-slm", "r2v-teacher", "r2v@bayes", "r2v@nothing"):
            body = {"model": model, "messages": messages}
            answer = await http.post("/v1/chat/completions", json=body)
            told = {k: v for k, v in answer.headers.items() if k.startswith("x-r2v")}
            told.pop("x-r2v-overhead-ms", None)
            payload = {k: v for k, v in answer.json().items() if k not in ("id", "created")}
            seen.append((answer.status_code, told, payload))
            async with http.stream(
                "POST", "/v1/chat/completions", json=body | {"stream": True}
            ) as s:
                lines = [line.removeprefix("data: ") async for line in s.aiter_lines() if line]
                chunks = [json.loads(line) for line in lines if line.startswith("{")]
                seen.append(
                    (s.status_code, [chunk.get("choices") for chunk in chunks], lines[-1][:6])
                )
            if answer.status_code == 200:
                messages.append(payload["choices"][0]["message"])
                messages.append({"role": "user", "content": f"after {model}"})
        seen.append((await http.get("/v1/models")).json()["data"][-1]["id"])
        seen.append((await http.get("/v1/chat/completions")).status_code)
        seen.append((await http.post("/v1/chat/completions", content=b"{")).json())
    return seen


@pytest.mark.slow
def test_case_86_ray_serve_answers_as_uvicorn_does_and_leaves_nothing(simulated_run: Path) -> None:
    async def case() -> None:
        teacher = StubTeacher(text=lambda body: "take the lamp now", between_s=0.05)
        answers = {}
        async with served_stub(teacher) as stub:
            for executor in ("uvicorn", "ray-serve"):
                given = (*sides(stub), "--executor", executor)
                async with serving(simulated_run, *given) as (url, process):
                    assert url.startswith("http://127.0.0.1:")
                    answers[executor] = await played(url)
                    await left_alone(url, teacher)
                    started = psutil.Process(process.pid).children(recursive=True)
                    assert bool(started) == (executor == "ray-serve")
                    process.send_signal(signal.SIGINT)
                    assert await asyncio.wait_for(process.wait(), 60) == 0
                    _, alive = psutil.wait_procs(started, 30)
                    assert not alive
        assert answers["ray-serve"] == answers["uvicorn"]
        ours, serves = (
            sum(b.num_rows for b in batches_of(path)) for path in logs(simulated_run)[-2:]
        )
        assert ours == serves > 8

    asyncio.run(case())


@pytest.mark.slow
def test_a_start_under_ray_serve_has_a_deadline_and_leaves_nothing(simulated_run: Path) -> None:
    command = [sys.executable, "-m", "r2v_dist.cli", "serve", str(simulated_run), "--port=0"]
    given = ["--executor=ray-serve", "cluster.engine_start_deadline_s=0.5"]
    done = subprocess.run(
        [*command, *given, *sides("http://127.0.0.1:9/v1")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 1
    told = "has not started the gateway within 0.5 s (cluster.engine_start_deadline_s)"
    assert told in done.stderr


async def left_alone(url: str, teacher: StubTeacher) -> None:
    """A caller that leaves a stream ends the teacher."""
    body = {"model": "r2v-teacher", "messages": USER, "stream": True}
    teacher.between_s = 1.0
    async with (
        httpx.AsyncClient(base_url=url, timeout=60) as http,
        http.stream("POST", "/v1/chat/completions", json=body) as stream,
    ):
        assert (await anext(aiter(stream.aiter_lines()))).startswith("data: ")
    for _ in range(200):
        if teacher.seen[-1].closed_at is not None:
            break
        await asyncio.sleep(0.05)
    assert teacher.seen[-1].closed_at is not None
    assert not teacher.seen[-1].done
    teacher.between_s = 0.05


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "slm.backend = simulated"),
        (["serve.operating_point=best"], "serve.operating_point = best"),
        (["serve.router=oracle"], "serve.router = oracle"),
        (["serve.explore.rate=0.1", "serve.shadow=slm"], "serve.explore.rate = 0.1: with serve.sh"),
        (
            ["serve.explore.rate=0.1", "router.hysteresis={cold_token_price: 0.01}"],
            "serve.explore.rate = 0.1: with router.hysteresis.cold_token_price = 0.01",
        ),
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
