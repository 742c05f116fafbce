"""What the gateway leaves behind: the request log, state after a restart, metrics, status, page."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow.ipc as ipc
import pytest

from r2v_dist.router.features import FEATURE_NAMES, features
from r2v_dist.router.scaler import Scaler
from r2v_dist.router.step_batch import StepBatch
from r2v_dist.serving.access import Access
from r2v_dist.serving.drift import WINDOW, FeatureDrift, RiskTest, advice
from r2v_dist.serving.log import read_log
from tests.gateway_rig import (
    KEY,
    USER,
    Rig,
    ScriptedSlm,
    ScriptedVerifier,
    StubTeacher,
    entropy_policy,
    rig,
)
from tests.integration.serving.test_equality import (
    MAX_STEPS,
    MODEL,
    POLICY,
    proposals,
    taught,
    through_the_gateway,
)

PRICES = {"slm": 1.0, "slm_prompt": 0.5, "teacher": 30.0, "teacher_prompt": 10.0}


def parts() -> dict[str, Any]:
    return {
        "teacher": StubTeacher(text=taught),
        "slm": ScriptedSlm(propose=proposals),
        "verifier": ScriptedVerifier(),
        "policy": POLICY,
        "max_steps": MAX_STEPS,
        "prices": PRICES,
    }


async def post(http: httpx.AsyncClient, **given: Any) -> httpx.Response:
    body = {"model": "r2v", "messages": USER} | given
    return await http.post("/v1/chat/completions", json=body)


async def judge(r: Rig, http: httpx.AsyncClient, success: bool) -> None:
    """Say how the conversation of the latest answer ended."""
    assert r.log is not None
    r.log.flush()
    assert r.log is not None
    table = read_log(Path(r.log.path).parent)
    last = table["id"].to_pylist()[-1]
    told = {"id": last, "success": success, "comment": "played"}
    assert (await http.post("/v1/feedback", json=told)).status_code == 200


def test_case_87_the_log_is_rollouts_and_risks_are_those_of_the_headers(tmp_path: Path) -> None:
    async def case() -> None:
        async with (
            rig(**parts(), folder=tmp_path) as r,
            httpx.AsyncClient(base_url=r.url, timeout=20) as http,
        ):
            risks = []
            for z in range(3):
                episode = await through_the_gateway(http, z, "selected")
                risks.append([step.risk for step in episode])
                await judge(r, http, success=bool(z))
            answer = await http.get("/v1/log")
            table = ipc.open_stream(answer.content).read_all()
            rows = StepBatch.from_rows(table, MAX_STEPS)
            predicted = [float(MODEL.predict(f[None]).rho[0]) for f in features(rows)]
            keys = table["key"].to_pylist()
            by_episode = [
                [risk for key, risk in zip(keys, predicted, strict=True) if key == wanted]
                for wanted in dict.fromkeys(keys)
            ]
            assert by_episode == risks
            outcomes = dict(zip(keys, table["success"].to_pylist(), strict=True))
            assert list(outcomes.values()) == [False, True, True]

    asyncio.run(case())


@pytest.mark.parametrize("restarts", [True, False])
def test_case_44_a_gateway_that_was_restarted_goes_on_where_it_was(
    tmp_path: Path, restarts: bool
) -> None:
    async def case() -> None:
        messages: list[dict[str, Any]] = list(USER)
        told = []
        folder = tmp_path
        async with rig(**parts(), folder=folder) as r:
            async with httpx.AsyncClient(base_url=r.url, timeout=60) as http:
                for step in range(6):
                    if restarts and step == 3:
                        break
                    answer = (await post(http, messages=messages)).json()
                    told.append(answer["r2v"])
                    messages.append(answer["choices"][0]["message"])
                    messages.append({"role": "user", "content": f"step {step}"})
            assert r.log is not None
            r.log.flush()
        if restarts:  # the first gateway's file was never ended, as after kill -9
            async with (
                rig(**parts(), folder=folder) as r,
                httpx.AsyncClient(base_url=r.url, timeout=60) as http,
            ):
                for step in range(3, 6):
                    answer = (await post(http, messages=messages)).json()
                    told.append(answer["r2v"])
                    messages.append(answer["choices"][0]["message"])
                    messages.append({"role": "user", "content": f"step {step}"})
        assert [one["features"] for one in told] == ["exact"] * 6
        EXPECTED.setdefault("told", [(one["route"], one["score"]) for one in told])
        assert EXPECTED["told"] == [(one["route"], one["score"]) for one in told]

    asyncio.run(case())


@pytest.mark.parametrize("other", ["", "slm", "router"])
def test_a_restart_takes_nothing_of_another_slm_or_router_for_its_own(
    tmp_path: Path, other: str
) -> None:
    """A later answer's propensity takes the scores of the earlier ones; ids are an SLM's own."""

    async def step(r: Rig, messages: list[dict[str, Any]]) -> dict[str, Any]:
        async with httpx.AsyncClient(base_url=r.url, timeout=60) as http:
            answer = (await post(http, messages=messages)).json()
        assert r.log is not None
        r.log.flush()
        messages += [answer["choices"][0]["message"], {"role": "user", "content": "next"}]
        told: dict[str, Any] = answer["r2v"]
        return told

    async def case() -> None:
        never = replace(POLICY.points["selected"], threshold=1e9)
        policy = replace(POLICY, points={"selected": never}, _watched={})
        messages = list(USER)
        async with rig(**parts() | {"policy": policy}, folder=tmp_path) as r:
            if other == "slm":
                r.gateway.slm = replace(r.gateway.slm, version="slm-0")
            assert (await step(r, messages))["route"] == "slm"
        if other == "router":
            policy = replace(policy, version="r-2", _watched={})
        async with rig(**parts() | {"policy": policy}, folder=tmp_path) as r:
            told = await step(r, messages)
            [turn] = r.slm.requests[-1].history
        assert told["features"] == ("rebuilt" if other == "slm" else "exact")
        assert (turn.action_ids is None) == (other == "slm")
        first, second = read_log(tmp_path).to_pylist()
        assert first["propensity"] == 1
        assert (second["propensity"] is None) == bool(other)

    asyncio.run(case())


def test_the_teacher_calls_of_a_named_conversation_outlast_a_restart(tmp_path: Path) -> None:
    async def case() -> None:
        reasons = []
        policy = entropy_policy(-1e9)
        for asked in ("aab", "aabb"):  # the names of conversations
            async with (
                rig(policy=policy, folder=tmp_path, max_teacher_calls=2) as r,
                httpx.AsyncClient(base_url=r.url, timeout=60) as http,
            ):
                for name in asked:
                    session = {"x-r2v-session": name}
                    body = {"model": "r2v", "messages": USER}
                    answer = await http.post("/v1/chat/completions", json=body, headers=session)
                    reasons.append(answer.headers["x-r2v-reason"])
                assert r.log is not None
                r.log.flush()
        assert reasons == ["router"] * 3 + ["budget", "budget", "router", "budget"]

    asyncio.run(case())


def test_feedback_may_be_about_an_answer_from_before_a_restart(tmp_path: Path) -> None:
    async def case() -> None:
        async with (
            rig(**parts(), folder=tmp_path) as r,
            httpx.AsyncClient(base_url=r.url, timeout=60) as http,
        ):
            answer = (await post(http, messages=USER)).json()
            assert r.log is not None
            r.log.flush()
        async with (
            rig(**parts(), folder=tmp_path) as r,
            httpx.AsyncClient(base_url=r.url, timeout=60) as http,
        ):
            judgement = {"id": answer["id"], "success": True}
            assert (await http.post("/v1/feedback", json=judgement)).status_code == 200
            assert r.log is not None
            r.log.flush()
        told = read_log(tmp_path).to_pylist()
        assert [row["kind"] for row in told] == ["answer", "feedback"]
        assert told[0]["state"] == told[1]["state"]

    asyncio.run(case())


EXPECTED: dict[str, Any] = {}
"""What the test before, of the same conversation, came to."""


def test_a_file_that_was_cut_off_is_read_up_to_there(tmp_path: Path) -> None:
    async def case() -> None:
        async with (
            rig(**parts(), folder=tmp_path) as r,
            httpx.AsyncClient(base_url=r.url, timeout=60) as http,
        ):
            for seed in range(3):
                await post(http, seed=seed)
                assert r.log is not None
                r.log.flush()
        [path] = tmp_path.glob("*.arrows")
        whole = path.read_bytes()
        path.write_bytes(whole[:-40])
        assert read_log(tmp_path).num_rows == 2

    asyncio.run(case())


def test_case_55_costs_and_tokens_add_up(tmp_path: Path) -> None:
    async def case() -> None:
        async with (
            rig(**parts(), folder=tmp_path) as r,
            httpx.AsyncClient(base_url=r.url, timeout=60) as http,
        ):
            for model in ("r2v-slm", "r2v-teacher", "r2v@selected", "r2v@budget"):
                await post(http, model=model)
                await http.post(
                    "/v1/chat/completions",
                    json={"model": model, "messages": USER, "stream": True},
                )
            assert r.log is not None
            r.log.flush()
            rows = read_log(tmp_path).to_pylist()
            asked = [row for row in rows if row["actor"] == "teacher"]
            assert len(asked) == len(r.teacher.seen)
            assert {(row["usage_prompt"], row["usage_completion"]) for row in asked} == {(11, 4)}
            for row in rows:
                sampled = sum(map(len, row["candidate_logprobs"] or ()))
                prompt = row["prompt_tokens"] or 0
                assert row["cost_slm"] == pytest.approx((prompt * 0.5 + sampled) / 1e6)
                said = (row["usage_prompt"] * 10 + row["usage_completion"] * 30) / 1e6
                assert row["cost_always_teacher"] == pytest.approx(said)
                own = said if row["actor"] == "teacher" else 0.0
                assert row["cost_teacher"] == pytest.approx(own)

    asyncio.run(case())


def test_cases_56_73_counters_move_and_hold_no_secret(tmp_path: Path) -> None:
    async def case() -> None:
        access = Access(keys=("key-of-a-caller",))
        told = {"authorization": "Bearer key-of-a-caller", "x-r2v-session": "sess"}
        async with rig(**parts(), folder=tmp_path, access=access) as r:
            async with httpx.AsyncClient(base_url=r.url, headers=told) as http:
                for model in ("r2v-slm", "r2v@selected", "r2v@budget"):
                    assert (await post(http, model=model)).status_code == 200
                metrics = (await http.get("/metrics")).text
                status = (await http.get("/v1/status")).json()
                page = (await http.get("/")).text
            async with httpx.AsyncClient(base_url=r.url, timeout=60) as stranger:
                for path in ("/metrics", "/v1/status", "/v1/log"):
                    assert (await stranger.get(path)).status_code == 401
                assert (await stranger.post("/v1/feedback", json={})).status_code == 401
            assert r.log is not None
            r.log.flush()
        counted = [line for line in metrics.splitlines() if line.startswith("r2v_requests_total")]
        assert sum(float(line.rsplit(" ", 1)[1]) for line in counted) == 3 == status["answers"]
        assert "r2v_risk_bucket" in metrics
        written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
        for text in (metrics, page, str(status), written.decode("latin-1")):
            assert KEY not in text
            assert "key-of-a-caller" not in text

    asyncio.run(case())


def test_feedback_of_nobody(tmp_path: Path) -> None:
    async def case() -> None:
        async with (
            rig(**parts(), folder=tmp_path) as r,
            httpx.AsyncClient(base_url=r.url, timeout=60) as http,
        ):
            answers = [
                await http.post("/v1/feedback", json=body)
                for body in ({"id": "x", "success": True}, {"id": "x"}, {"id": "x", "won": 1})
            ]
            assert [answer.status_code for answer in answers] == [404, 400, 400]

    asyncio.run(case())


def test_drift_is_quiet_in_training_and_loud_after_a_shift() -> None:
    rng = np.random.default_rng(0)
    count = len(FEATURE_NAMES)
    training_NF = rng.normal(size=(4000, count))
    false_alarms = 0
    for _ in range(100):
        drift = FeatureDrift(training_NF, Scaler.of(training_NF))
        for f_F in rng.normal(size=(WINDOW, count)):
            drift.add(f_F)
        false_alarms += bool(drift.alarms())
    assert false_alarms <= 1
    for f_F in rng.normal(size=(WINDOW, count)) + np.eye(count)[3]:
        drift.add(f_F)
    assert drift.alarms() == [FEATURE_NAMES[3]]


def test_steps_beyond_the_training_states_are_told_by_the_twentieth() -> None:
    count = len(FEATURE_NAMES)
    training_NF = np.random.default_rng(1).uniform(size=(400, count))
    drift = FeatureDrift(training_NF, Scaler.of(training_NF))
    inside_F = np.full(count, 0.5)
    for step in range(19):
        drift.add(inside_F + (step % 2) * 3.0 * np.eye(count)[3])
    assert drift.beyond() == {}
    drift.add(inside_F)
    assert {name: share for name, share in drift.beyond().items() if share} == {
        FEATURE_NAMES[3]: 9 / 20
    }
    told = advice(drift.alarms(), drift.beyond(), False)
    assert told.startswith(f"{FEATURE_NAMES[3]} in 45% of the steps lie beyond")
    for _ in range(WINDOW):
        drift.add(inside_F)
    assert set(drift.beyond().values()) == {0.0}  # so that a gauge goes back


def test_the_test_of_calibration_is_quiet_under_calibration_and_loud_at_twice_the_failures() -> (
    None
):
    rng = np.random.default_rng(0)
    alarms = {1: 0, 2: 0}
    for factor in alarms:
        for _ in range(200):
            test = RiskTest()
            for risk in rng.uniform(0.1, 0.4, 300):
                test.add(float(risk), bool(rng.random() < factor * risk))
            alarms[factor] += test.alarm
    assert alarms[1] <= 6  # 1 % of 200, and chance
    assert alarms[2] >= 190
