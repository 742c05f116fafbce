"""The report says what the rollouts say, for people, for scripts and on the terminal."""

import contextlib
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather as feather
import pytest
import yaml

from r2v_dist.cli.main import main
from r2v_dist.errors import UsageError
from r2v_dist.report.terminal import show
from tests.runs import ROOT

ROW_KEYS = {
    *(
        "name",
        "threshold",
        "selected",
        "split",
        "training_seed",
        "success_rate",
        "success_ci",
        "llm_call_rate",
        "teacher_calls",
    ),
    *(
        "teacher_call_fraction",
        "worst_seed_success",
        "cvar_failure",
        "brier",
        "ece15",
        "auroc",
        "episodes",
        "tasks",
        "seeds",
    ),
    "fitted",
    "teacher_answers",
}


def cli(*arguments: str) -> str:
    """What a command prints; it ends well."""
    code, said, complained = outcome(*arguments)
    assert code == 0, complained
    return said


def outcome(*arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command, in this process: to import
    everything anew would take most of the time.
    """
    said = io.StringIO()
    complained = io.StringIO()
    code = 0
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complained):
        try:
            main(list(arguments))
        except SystemExit as end:
            code = int(end.code or 0)
    return code, said.getvalue(), complained.getvalue()


@pytest.fixture(scope="module")
def summary(simulated_run: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(cli("report", str(simulated_run), "--json"))
    return loaded


@pytest.fixture(scope="module")
def steps(simulated_run: Path) -> pd.DataFrame:
    frames = map(pd.read_feather, sorted((simulated_run / "rollouts" / "evaluate").glob("*.arrow")))
    return pd.concat(frames).query("z.notna()")


def test_the_summary_has_the_documented_shape(summary: dict[str, Any]) -> None:
    assert {
        "env",
        "simulated",
        "teacher",
        "config_hash",
        "versions",
        "wall_s",
        "stages",
        "routers",
        "certificate",
    } <= set(summary)
    assert summary["simulated"] is True
    assert summary["teacher"] == {"backend": "expert", "model": None, "privileged": True}
    documented = (ROOT / "docs" / "report.md").read_text()
    parts = [
        summary,
        summary["comparisons"],
        summary["comparisons"]["others"][0],
        summary["certificate"],
    ]
    parts += [
        summary["risk_quality"][0],
        summary["operating_points"][0],
        summary["operating_points"][0]["test"],
        *summary["routers"],
    ]
    parts += [summary["risk_quality"][0]["by_episode"], summary["risk_quality"][0]["by_step"][0]]
    parts += [*summary["routing_signals"], *summary["seed_differences"]]
    parts += [one["correlations"] for one in summary["routing_signals"]]
    missing = {key for part in parts for key in part if not re.search(rf"\b{key}\b", documented)}
    assert not missing
    assert all(set(row) == ROW_KEYS for row in summary["routers"])
    names = list(dict.fromkeys(row["name"] for row in summary["routers"]))
    assert names[:2] == ["slm_only", "teacher_only"]
    assert {"random", "entropy", "stuck_latch", "query_level", "r2v"} <= set(names)


def test_every_number_follows_from_the_rollouts(
    summary: dict[str, Any], steps: pd.DataFrame
) -> None:
    tasks, seeds = steps.task.nunique(), steps.z.nunique()
    for row in summary["routers"]:
        own = steps[steps.router == row["name"]]
        if row["threshold"] is not None:
            own = own[own.threshold == row["threshold"]]
        episodes = own[own.t == 0]
        assert row["episodes"] == len(episodes) == tasks * seeds
        assert row["success_rate"] == pytest.approx(episodes.success.mean())
        assert row["success_ci"][0] <= row["success_rate"] <= row["success_ci"][1]
        assert row["teacher_calls"] == (own.actor == "teacher").sum()
        assert row["llm_call_rate"] == pytest.approx((own.actor == "teacher").mean())
        assert row["worst_seed_success"] == pytest.approx(
            episodes.groupby("z").success.mean().min()
        )
        worst_fifth = 1 - episodes.groupby("z").success.mean().sort_values().head(seeds // 5)
        assert row["cvar_failure"] == pytest.approx(worst_fifth.mean())


def test_more_help_is_not_worse(summary: dict[str, Any]) -> None:
    rates = {r["threshold"]: r["success_rate"] for r in summary["routers"] if r["name"] == "random"}
    ends = {r["name"]: r["success_rate"] for r in summary["routers"] if r["threshold"] is None}
    assert ends["slm_only"] < rates[max(rates)] <= ends["teacher_only"]
    assert rates[min(rates)] <= rates[max(rates)]


def test_the_risk_is_judged_on_the_steps_of_the_slm_alone(
    summary: dict[str, Any], steps: pd.DataFrame
) -> None:
    alone = steps[(steps.router == "slm_only") & (steps.t >= 0)]
    by_name = {quality["name"]: quality for quality in summary["risk_quality"]}
    failed = 1 - alone.success.mean()
    for quality in by_name.values():
        assert quality["steps"] == len(alone)
        assert quality["failure_rate"] == pytest.approx(failed)
        assert quality["constant_brier"] == pytest.approx(failed * (1 - failed))
    for row in summary["routers"]:
        quality = by_name.get(row["name"])
        expected = (
            (quality["brier"], quality["ece15"], quality["auroc"])
            if quality
            else (None, None, None)
        )
        assert (row["brier"], row["ece15"], row["auroc"]) == expected
    assert by_name["r2v"]["auroc"] > 0.5
    first = alone[alone.t == 0]
    assert by_name["r2v"]["by_step"][0]["steps"] == len(first) == by_name["r2v"]["episodes"]
    assert by_name["r2v"]["by_step"][0]["failure_rate"] == pytest.approx(1 - first.success.mean())
    assert by_name["r2v"]["step_number_auroc"] > 0.5
    assert {"entropy", "r2v"} <= set(summary["score_auroc"])
    assert all(len(values) == 1 for values in summary["score_auroc"].values())


def test_what_routes_is_measured_on_the_states_of_the_episodes(
    summary: dict[str, Any], steps: pd.DataFrame
) -> None:
    alone, selected = summary["routing_signals"]
    assert (alone["path"], selected["path"]) == ("alone", "selected")
    assert alone["states"] == ((steps.router == "slm_only") & (steps.t >= 0)).sum()
    threshold = next(
        row["threshold"] for row in summary["routers"] if row["name"] == "r2v" and row["selected"]
    )
    own = steps[(steps.router == "r2v") & (steps.threshold == threshold)]
    assert selected["states"] == own.score.notna().sum() > 0
    for one in (alone, selected):
        assert one["score"] == "advantage"
        assert set(one["correlations"]) == {
            "rho",
            "rho1",
            "rhoT",
            "value",
            "dissent",
            "gain",
            "saving",
        }
        assert all(value is None or -1 <= value <= 1 for value in one["correlations"].values())
        assert 0 <= one["clipped_cost"] <= 1


def test_whether_seeds_differ_is_said_of_the_same_episodes(summary: dict[str, Any]) -> None:
    rows = {
        row["name"]: row
        for row in summary["routers"]
        if row["threshold"] is None or row["selected"]
    }
    assert [one["name"] for one in summary["seed_differences"]] == [
        "slm_only",
        "r2v",
        "teacher_only",
    ]
    for one in summary["seed_differences"]:
        assert one["cvar_failure"] == pytest.approx(rows[one["name"]]["cvar_failure"])
        assert (
            1 - rows[one["name"]]["success_rate"] - 1e-9
            <= one["cvar_noise_floor"]
            <= one["cvar_noise_floor_upper_95"] + 1e-9
        )
        assert 0 < one["p_value"] <= 1


def test_baselines_say_whether_they_are_fitted(
    summary: dict[str, Any], simulated_run: Path
) -> None:
    fitted = {row["name"]: row["fitted"] for row in summary["routers"]}
    unfitted = "random random_episode first_n after_error agreement entropy heuristic perplexity"
    assert {name for name, value in fitted.items() if value is False} == {
        *unfitted.split(),
        "stuck_latch",
    }
    for name in ("query_level", "logistic", "logistic_three", "logistic_disagreement", "r2v"):
        assert fitted[name] is True
    assert {"r2v_risk", "r2v_value"} <= set(fitted)
    assert fitted["slm_only"] is None
    assert {one["other"]: one["fitted"] for one in summary["comparisons"]["others"]}[
        "query_level"
    ] is True
    page = (simulated_run / "report" / "index.html").read_text()
    assert re.search(r"first-token entropy <span[^>]*>unfitted<", page)
    assert re.search(r"query-level classifier <span[^>]*>fitted<", page)


def questions(simulated_run: Path, stage: str) -> int:
    """Questions put to the teacher in the episodes of a stage."""
    shards = sorted((simulated_run / "rollouts" / stage).glob("*.arrow"))
    rows = pd.concat(map(pd.read_feather, shards))
    played = rows.branch_t.isna() | (rows.t >= rows.branch_t)
    own = rows[(rows.actor == "teacher") & played]
    return len({*zip(own.task, own.z, own.prefix, own.replica, strict=True)})


def test_every_router_says_what_its_training_took_of_the_teacher(
    summary: dict[str, Any], simulated_run: Path
) -> None:
    answers = {row["name"]: row["teacher_answers"] for row in summary["routers"]}
    free = "random random_episode first_n entropy query_level logistic logistic_three"
    assert {answers[name] for name in free.split()} == {0}
    assert answers["slm_only"] is None
    stages = ("visits", "labels", "visits2", "labels2")
    asked = sum(questions(simulated_run, stage) for stage in stages)
    ours = [count for name, count in answers.items() if name.startswith("r2v")]
    assert set(ours) == {asked}
    visits = sorted((simulated_run / "rollouts" / "visits").glob("*.arrow"))
    rows = pd.concat(map(pd.read_feather, visits))
    alone = rows[(rows.router == "slm_only") & (rows.t >= 0) & rows.z.notna()]
    states = {*zip(alone.task, alone.z, alone.prefix, strict=True)}
    assert answers["logistic_disagreement"] == len(states) < asked
    by_other = {one["other"]: one["teacher_answers"] for one in summary["comparisons"]["others"]}
    assert all(answers[name] == count for name, count in by_other.items())


def test_comparisons_and_operating_points_agree_with_the_rows(summary: dict[str, Any]) -> None:
    found, rows = summary["comparisons"], summary["routers"]
    selected = next(row for row in rows if row["name"] == "r2v" and row["selected"])
    point = next(one for one in summary["operating_points"] if one["kind"] == "selected")
    assert point["threshold"] == selected["threshold"]
    assert point["test"]["success_rate"] == pytest.approx(selected["success_rate"])
    assert point["test"]["llm_call_rate"] == pytest.approx(selected["llm_call_rate"])
    assert found["success"] == pytest.approx(selected["success_rate"])
    assert found["cost"] == pytest.approx(selected["teacher_calls"] / selected["episodes"])
    swept = {row["name"] for row in rows if row["threshold"] is not None}
    assert {other["other"] for other in found["others"]} == swept - {"r2v"}
    for other in found["others"]:
        assert other["auc_difference"]["difference"] == pytest.approx(found["auc"] - other["auc"])
        assert other["p_holm"] is None or other["p_holm"] >= other["p_value"]
    assert {one["kind"] for one in summary["operating_points"]} == {
        "selected",
        "budget",
        "expected_cost",
        "bayes",
    }


def test_the_page_stands_alone_and_says_simulated(
    simulated_run: Path, summary: dict[str, Any]
) -> None:
    page = (simulated_run / "report" / "index.html").read_text()
    assert "Simulated policy." in page
    assert "privileged oracle" in page
    assert "<script" not in page
    assert 'src="http' not in page
    assert "published, TextWorld" in page
    assert "risk of failing alone" in page
    assert "What routes" in page
    idle = not summary["seed_differences"][0]["differ"]
    assert ("Seeds do not differ beyond noise: CVaR is idle" in page) == idle
    assert ("Seeds differ beyond noise" in page) != idle
    assert "CVaR only filters thresholds here" in page
    drawn = {path.stem for path in (simulated_run / "report").glob("*.png")}
    assert {"frontier", "seeds", "reliability", "risk_over_steps", "training"} <= drawn
    assert page.count("<svg") == len(drawn)
    ids = re.findall(r'<clipPath id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert (simulated_run / "report" / "frontier.png").stat().st_size > 10_000


def test_the_last_lines_are_the_headline(simulated_run: Path) -> None:
    lines = cli("report", str(simulated_run)).splitlines()
    assert len(lines) <= 15
    text = "\n".join(lines)
    assert "SIMULATED" in lines[0]
    for part in (
        "SLM only",
        "teacher only (privileged oracle)",
        "r2v @",
        "best unfitted baseline at that cost",
        "best fitted baseline at that cost",
        "worst seed",
        "certificate:",
        "the score (advantage)",
        "seeds d",
    ):
        assert part in text
    assert lines[-1] == f"Report: {simulated_run / 'report' / 'index.html'}"


def test_certify_promises_or_says_why_not(simulated_run: Path, summary: dict[str, Any]) -> None:
    written = simulated_run / "report" / "certificate.json"
    as_configured = cli("certify", str(simulated_run))
    assert json.loads(written.read_text()) == summary["certificate"]
    assert summary["certificate"]["words"].lower() in as_configured.lower()
    promised = cli("certify", str(simulated_run), "--risk", "0.9", "--delta", "0.5")
    certificate = json.loads(written.read_text())
    assert certificate["threshold"] == max(
        one["threshold"] for one in certificate["tested"] if one["rejected"]
    )
    assert "on a new task" in promised
    refused = cli("certify", str(simulated_run), "--risk", "0.001", "--statistic", "cvar")
    assert "no feasible threshold" in refused.lower()
    assert "tasks is the least that could" in refused
    assert json.loads(written.read_text())["threshold"] is None


def test_certify_needs_calibration_and_probabilities(simulated_run: Path, tmp_path: Path) -> None:
    shutil.copy(simulated_run / "config.yaml", tmp_path)
    for arguments, said in (
        ([str(tmp_path)], "no calibration stage"),
        ([str(simulated_run), "--risk", "1.5"], "--risk 1.5"),
    ):
        code, _, complained = outcome("certify", *arguments)
        assert code == 2
        assert complained.count("\n") == 1
        assert said in complained


TRAINED = (
    *("visits", "labels", "router", "visits2", "labels2", "router2", "regressions"),
    *("validate", "evaluate"),
)


def with_seeds(simulated_run: Path, run_dir: Path, count: int) -> Path:
    """The run with more training seeds that all came to the same."""
    shutil.copytree(simulated_run, run_dir)
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    (run_dir / "config.yaml").write_text(yaml.safe_dump(config | {"training_seeds": count}))
    for training_seed in range(1, count):
        for stage in TRAINED:
            name = f"{stage}@{training_seed}"
            if (run_dir / "stages" / stage).is_dir():
                shutil.copytree(run_dir / "stages" / stage, run_dir / "stages" / name)
            for shard in (run_dir / "rollouts" / stage).glob("*.arrow"):
                table = feather.read_table(shard)
                seeds = pa.array([training_seed] * table.num_rows, pa.int16())
                target = run_dir / "rollouts" / name / shard.name
                target.parent.mkdir(exist_ok=True)
                place = table.column_names.index("training_seed")
                feather.write_feather(table.set_column(place, "training_seed", seeds), target)
    return run_dir


def test_points_of_a_training_seed_come_from_its_own_validation(
    simulated_run: Path, tmp_path: Path
) -> None:
    """Without the second seed's validation the third seed keeps its points, and the
    second says so.
    """
    run_dir = with_seeds(simulated_run, tmp_path / "three", 3)
    (run_dir / "stages" / "validate@1" / "manifest.json").unlink()
    found = json.loads(cli("report", str(run_dir), "--json"))
    of_seed: dict[int, dict[str, Any]] = {0: {}, 1: {}, 2: {}}
    for point in found["operating_points"]:
        of_seed[point["training_seed"]][point["kind"]] = point
    assert of_seed[2] == {kind: point | {"training_seed": 2} for kind, point in of_seed[0].items()}
    assert set(of_seed[1]) == {"selected", "bayes"}
    assert of_seed[1]["selected"]["test"] is None
    assert "is not complete" in of_seed[1]["selected"]["note"]
    assert all(values == [values[0], None, values[0]] for values in found["score_auroc"].values())


def test_every_training_seed_is_read(
    simulated_run: Path, summary: dict[str, Any], tmp_path: Path
) -> None:
    """A second training seed that came to the same: all means stay, and the rows are
    there twice.
    """
    run_dir = with_seeds(simulated_run, tmp_path / "two", 2)
    found = json.loads(cli("report", str(run_dir), "--json"))
    assert [row["training_seed"] for row in found["routers"]].count(1) == len(summary["routers"])
    assert found["routers"][len(summary["routers"]) :] == [
        row | {"training_seed": 1} for row in summary["routers"]
    ]
    assert found["comparisons"] == summary["comparisons"] | {"training_seeds": 2}
    assert found["seed_differences"] == summary["seed_differences"]
    assert found["score_auroc"] == {
        name: values * 2 for name, values in summary["score_auroc"].items()
    }
    assert [one["training_seed"] for one in found["routing_signals"]] == [0, 0, 1, 1]
    assert "x 2 training seeds" in cli("report", str(run_dir))


@pytest.mark.parametrize(
    ("everywhere", "reason"), [(False, "quarantined"), (True, "context_limit")]
)
def test_episodes_without_a_step_are_shown_as_what_they_are(
    simulated_run: Path, tmp_path: Path, everywhere: bool, reason: str
) -> None:
    run_dir = tmp_path / "stepless"
    shutil.copytree(simulated_run, run_dir)
    for shard in (run_dir / "rollouts" / "evaluate").glob("*.arrow"):
        table = _without_steps(feather.read_table(shard), everywhere, reason)
        feather.write_feather(table, shard)
    _covers_what_is_there(run_dir)
    lines = cli("report", str(run_dir)).splitlines()
    [told] = [line for line in lines if "NOT ENDED BY THE TASK" in line]
    assert ("context limit 100.0% of" if everywhere else "most with SLM only") in told
    page = (run_dir / "report" / "index.html").read_text()
    assert "No step was taken." in page
    assert f'<span class="tag bad">{reason.replace("_", " ")}</span>' in page
    shown = cli("rollouts", str(run_dir), "--router", "slm_only", "--failed", "--limit", "1")
    assert reason in shown
    given_up = json.loads((run_dir / "report" / "summary.json").read_text())["quarantined"]
    assert ("Quarantined." in page) == (given_up is not None) == (reason == "quarantined")
    for one in given_up or ():
        [named] = [line for line in lines if "QUARANTINED: " in line]
        assert one["task"] in named
        assert one["task"] in page


def _covers_what_is_there(run_dir: Path) -> None:
    """The stage's manifest as if it had written these shards."""
    manifest = run_dir / "stages" / "evaluate" / "manifest.json"
    values = json.loads(manifest.read_text())
    values["covers"] = {name: (run_dir / name).stat().st_size for name in values["covers"]}
    manifest.write_text(json.dumps(values))


def _without_steps(table: pa.Table, everywhere: bool, reason: str) -> pa.Table:
    """The table with failed episodes of the SLM alone, or all episodes, over before their first
    step."""
    alone = pc.and_(
        pc.equal(table["router"].cast(pa.string()), "slm_only"), pc.invert(table["success"])
    )
    over = pc.or_(alone, everywhere)
    kept = table.filter(pc.or_(pc.invert(over), pc.equal(table["t"], 0)))
    rows = kept.to_pylist()
    for row in rows:
        if everywhere or (row["router"] == "slm_only" and not row["success"]):
            step = dict.fromkeys(kept.column_names[kept.column_names.index("observation") :])
            listed = {name: [] for name in step if name.startswith(("candidate", "first_top"))}
            row |= step | listed | {"t": -1, "n_steps": 0, "success": False, "stop_reason": reason}
    return pa.Table.from_pylist(rows, schema=table.schema)


def test_episodes_on_the_terminal(simulated_run: Path) -> None:
    shown = cli("rollouts", str(simulated_run), "--router", "slm_only", "--failed", "--limit", "1")
    assert "Goal: " in shown
    assert "slm > wait" in shown
    routed = " ".join(
        cli("rollouts", str(simulated_run), "--router", "r2v", "--limit", "1").split()
    )
    assert "after a teacher step" in routed
    assert re.search(r"score \S+ [<≥] \S+", routed)
    assert "no episode matches" in cli("rollouts", str(simulated_run), "--task", "nosuchtask")
    unknown = r"--router rv2: no episode of stage evaluate in .*; there are .*entropy, .*r2v, "
    with pytest.raises(UsageError, match=unknown):
        show(simulated_run, "evaluate", router="rv2", task=None, z=None, failed=False, limit=1)


def test_doctor_finds_what_is_installed() -> None:
    findings = json.loads(cli("doctor", "--json"))
    assert findings["engines"] == {"vllm": True, "deepspeed": True, "ray": True}
    assert findings["cpu_cores"] >= 1
    assert findings["path_problem"] == ""
    assert findings["sandbox"]["level"] in ("bubblewrap", "rlimits", "none")
