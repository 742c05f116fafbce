"""Learning from served traffic: thresholds by chance, their propensities in the log, what `r2v
estimate` makes of it, and what it refuses. SLM and teacher are scripted."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.ipc as ipc
import pytest

from r2v_dist.evaluation.off_policy import LEAST, OffPolicy
from r2v_dist.evaluation.operating_points import Prices
from r2v_dist.router.exploration import Exploration, agrees
from r2v_dist.router.switching import Hysteresis
from r2v_dist.serving.log import SCHEMA, read_log
from r2v_dist.serving.log_traffic import (
    HELD,
    LATER,
    PRICED,
    WATCHED,
    LoggedTraffic,
    logged_traffic,
)
from r2v_dist.serving.policy import Point, Policy
from tests.gateway_rig import USER, ScriptedSlm, ScriptedVerifier, StubTeacher, rig
from tests.integration.serving.test_equality import (
    HYSTERESIS,
    MAX_STEPS,
    POLICY,
    proposals,
    routers,
    taught,
    through_the_gateway,
)

EXPLORED = (0.6, 0.8)
EXPLORING = replace(POLICY, exploration=Exploration(0.5, EXPLORED, seed=1), _watched={})
PRICES = Prices(0.02, 20.0)


def parts(policy: Policy, **serve: Any) -> dict[str, Any]:
    return {
        "teacher": StubTeacher(text=taught),
        "slm": ScriptedSlm(propose=proposals),
        "verifier": ScriptedVerifier(),
        "policy": policy,
        "max_steps": MAX_STEPS,
    } | serve


async def played(policy: Policy, folder: Path, episodes: Sequence[int], **serve: Any) -> None:
    """Episodes through the gateway, each judged: those that end below the top have failed."""
    async with (
        rig(**parts(policy, **serve), folder=folder) as r,
        httpx.AsyncClient(base_url=r.url, timeout=30) as http,
    ):
        for z in episodes:
            decided = await through_the_gateway(http, z, "selected")
            won = sum(step.action == "up" for step in decided) == 4
            await judge(http, decided[-1].id, won)
        assert r.log is not None
        r.log.flush()


async def judge(http: httpx.AsyncClient, answer_id: str, won: bool) -> None:
    told = {"id": answer_id, "success": won}
    assert (await http.post("/v1/feedback", json=told)).status_code == 200


def read(folder: Path, held: bool = False) -> LoggedTraffic:
    return logged_traffic(read_log(folder), lambda _: None, HYSTERESIS if held else {})


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 judged conversations of a gateway that explores."""
    folder = tmp_path_factory.mktemp("log")
    asyncio.run(played(EXPLORING, folder, range(60)))
    return folder


def test_every_conversation_plays_one_drawn_threshold_and_says_how_likely_it_was(log: Path) -> None:
    rows = [row for row in read_log(log).to_pylist() if row["kind"] == "answer"]
    by_draw: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_draw.setdefault(row["drawn_by"], []).append(row)
    assert len(by_draw) == 60
    expected = {0.6: 0.25, 0.75: 0.5, 0.8: 0.25}
    thresholds = [conversation[0]["threshold"] for conversation in by_draw.values()]
    for threshold, share in expected.items():
        assert thresholds.count(threshold) / 60 == pytest.approx(share, abs=0.15)
    for name, conversation in by_draw.items():
        assert len({row["threshold"] for row in conversation}) == 1
        drawn = EXPLORING.exploration.drawn(name)  # type: ignore[union-attr]
        assert conversation[0]["threshold"] == (0.75 if drawn is None else drawn)
        scores = [row["score"] for row in conversation]
        actors = [row["actor"] for row in conversation]
        alike = [p for t, p in expected.items() if agrees(t, scores, actors)]
        product = np.prod([row["propensity"] for row in conversation])
        assert product == pytest.approx(sum(alike))
        explored = conversation[0]["threshold"] != 0.75
        assert {"explored" in row["uncalibrated"] for row in conversation} == {explored}
    assert all([one["own"] for one in row["design"]] == [False, True, False] for row in rows)
    assert {tuple((c["threshold"], c["probability"]) for c in row["design"]) for row in rows} == {
        tuple(expected.items())
    }


def test_features_and_versions_are_logged(log: Path) -> None:
    rows = [row for row in read_log(log).to_pylist() if row["kind"] == "answer"]
    model = POLICY.models.trained["r2v", 0]
    features_NF = np.array([row["features"] for row in rows])
    assert [row["risk"] for row in rows] == [
        float(model.predict(f[None]).rho[0]) for f in features_NF
    ]
    assert {row["router_version"] for row in rows} == {"r-1"}


def test_the_estimate_of_a_log_is_that_of_its_weights(log: Path) -> None:
    traffic = read(log)
    assert (traffic.judged, len(traffic.conversations), traffic.now) == (60, 60, 0.75)
    found = OffPolicy(traffic.conversations, traffic.now, PRICES)
    assert found.thresholds == [0.6, 0.75, 0.8]
    for row in found.estimates():
        alike = [agrees(row.threshold, c.scores, c.actors) for c in traffic.conversations]
        weights = np.array(alike) / [c.propensity for c in traffic.conversations]
        calls = np.array([c.calls for c in traffic.conversations])
        assert row.alike == sum(alike)
        assert row.effective == pytest.approx(weights.sum() ** 2 / (weights**2).sum())
        if row.success is None:
            assert row.effective < LEAST
            continue
        assert row.mean_weight == pytest.approx(weights.mean())
        assert abs(row.mean_weight - 1) < 4 * (row.mean_weight_error or 0)
        assert row.calls == pytest.approx(float(weights @ calls / weights.sum()), abs=0.3)
    assert found.at(0.75).success is not None


def test_held_conversations_have_propensities_too(tmp_path: Path) -> None:
    held = replace(EXPLORING, models=routers("selected", held="holds"), _watched={})
    asyncio.run(played(held, tmp_path, range(20)))
    assert len(read(tmp_path, held=True).conversations) == 20


@pytest.mark.parametrize("says", [True, False])
def test_conversations_held_otherwise_are_left_out_whatever_was_decided_in_them(
    tmp_path: Path, says: bool
) -> None:
    """Some were decided as the run's hysteresis would: to use those alone would select. A log of an
    earlier version does not say how it was held; there one that differs speaks for all."""
    held = replace(EXPLORING, models=routers("selected", held="holds"), _watched={})
    asyncio.run(played(held, tmp_path, range(20)))
    log = read_log(tmp_path)
    if not says:
        unknown = pa.nulls(len(log), pa.string())
        log = log.set_column(log.schema.get_field_index("hysteresis"), "hysteresis", unknown)
    whole = logged_traffic(log, lambda _: None, HYSTERESIS)
    assert len(whole.conversations) == 20
    assert 0 < sum(explained_without_hysteresis(whole)) < 20
    other = logged_traffic(log, lambda _: None, {})
    assert (other.conversations, other.left_out) == ((), {HELD: 20})


def explained_without_hysteresis(traffic: LoggedTraffic) -> list[bool]:
    return [
        bool(np.isclose(one.propensity, one.design.chance_of(one.scores, one.actors)))
        for one in traffic.conversations
    ]


def test_what_chance_did_not_decide_is_left_out_and_counted(tmp_path: Path) -> None:
    async def case() -> None:
        async with (
            rig(**parts(EXPLORING), folder=tmp_path) as r,
            httpx.AsyncClient(base_url=r.url, timeout=30) as http,
        ):
            own = {"threshold": 0.1}
            asked: list[dict[str, Any]] = [
                {"model": "r2v"},
                {"model": "r2v-slm"},
                {"model": "r2v@certified"},
                {"model": "r2v", "r2v": own},
                {"model": "r2v", "r2v": {"max_teacher_calls": 0}},
                {"model": "r2v", "r2v": {"max_steps": 5}},
            ]
            for number, given in enumerate(asked):
                goal = {"role": "user", "content": f"Goal: climb\nrung {number}"}
                answer = await http.post("/v1/chat/completions", json={"messages": [goal]} | given)
                assert answer.status_code == 200
                await judge(http, answer.json()["id"], True)
            unknown = [*USER, {"role": "assistant", "content": "from elsewhere"}, *USER]
            await http.post("/v1/chat/completions", json={"model": "r2v", "messages": unknown})
            assert r.log is not None
            r.log.flush()

    asyncio.run(case())
    rows = [row for row in read_log(tmp_path).to_pylist() if row["kind"] == "answer"]
    known = [row["propensity"] is not None for row in rows]
    budget_spent = rows[4]["reason"] == "budget"
    assert known == [True, False, False, False, not budget_spent, True, False]
    traffic = read(tmp_path)
    assert len(traffic.conversations) == sum(known[:6])
    assert traffic.left_out["at an operating point or on a side that the caller chose"] == 3


def test_a_conversation_that_is_judged_at_several_answers_is_one(tmp_path: Path) -> None:
    async def case() -> None:
        async with (
            rig(**parts(POLICY), folder=tmp_path) as r,
            httpx.AsyncClient(base_url=r.url, timeout=30) as http,
        ):
            for step in await through_the_gateway(http, 0, "selected"):
                await judge(http, step.id, False)
            assert r.log is not None
            r.log.flush()

    asyncio.run(case())
    traffic = read(tmp_path)
    [whole] = traffic.conversations
    assert len(whole.actors) == traffic.answers > 1
    assert traffic.left_out == {LATER: traffic.answers - 1}


def test_what_only_watched_or_weighed_prompts_is_named(tmp_path: Path) -> None:
    asyncio.run(played(POLICY, tmp_path / "watched", range(2), shadow="slm"))
    assert read(tmp_path / "watched").left_out == {WATCHED: 2}
    held = {"r2v": Hysteresis(cold_token_price=1e-6)}
    priced = replace(EXPLORING, models=replace(EXPLORING.models, hysteresis=held), _watched={})
    asyncio.run(played(priced, tmp_path / "priced", range(2)))
    log = read_log(tmp_path / "priced")
    assert logged_traffic(log, lambda _: None, held).left_out == {PRICED: 2}


def test_without_exploration_nothing_is_drawn_and_the_served_threshold_is_certain(
    tmp_path: Path,
) -> None:
    asyncio.run(played(POLICY, tmp_path, range(5)))
    rows = [row for row in read_log(tmp_path).to_pylist() if row["kind"] == "answer"]
    assert {row["propensity"] for row in rows} == {1.0}
    assert {row["threshold"] for row in rows} == {0.75}
    assert not any(row["uncalibrated"] for row in rows)


@pytest.mark.parametrize("mixed", [False, True])
def test_nobody_learns_what_a_session_will_draw_before_it_has_begun(mixed: bool) -> None:
    async def case() -> None:
        policy = EXPLORING
        if mixed:
            selected = Point("selected", 0.75, cheap=0.3, share=0.6)
            policy = replace(POLICY, points={"selected": selected}, _watched={})
        async with (
            rig(**parts(policy)) as r,
            httpx.AsyncClient(base_url=r.url, timeout=30) as http,
        ):
            told: dict[str, set[float]] = {"before": set(), "dry": set(), "drawn": set()}
            for number in range(24):
                named = {"x-r2v-session": f"s-{number}"}
                body: dict[str, Any] = {"model": "r2v", "messages": list(USER)}

                async def ask(
                    body: dict[str, Any], named: dict[str, str], path: str = "chat/completions"
                ) -> Any:
                    return (await http.post(f"/v1/{path}", json=body, headers=named)).json()

                told["before"].add((await ask(body, named, "decision"))["threshold"])
                dry = await ask(body | {"r2v": {"dry_run": True}}, named)
                told["dry"].add(dry["r2v"]["threshold"])
                first = await ask(body, named)
                drawn = first["r2v"]["threshold"]
                told["drawn"].add(drawn)
                body["messages"] += [first["choices"][0]["message"], *USER]
                assert (await ask(body, named, "decision"))["threshold"] == drawn
            assert told["before"] == told["dry"] == {0.75}
            assert told["drawn"] == ({0.3, 0.75} if mixed else {0.6, 0.75, 0.8})

    asyncio.run(case())


def test_a_log_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    names = [name for name in SCHEMA.names if name not in ("design", "propensity", "features")]
    old = SCHEMA.empty_table().select(names).schema.with_metadata({"r2v_log_version": "1"})
    with ipc.new_stream(str(tmp_path / "1-1.arrows"), old) as writer:
        row = {"time": 1.0, "id": "a", "kind": "answer", "status": "served", "actor": "slm"}
        writer.write_batch(pa.RecordBatch.from_pylist([row], old))
    table = read_log(tmp_path)
    assert table.schema.equals(SCHEMA)
    assert table["propensity"].to_pylist() == [None]
