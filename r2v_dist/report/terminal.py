"""Episodes on the terminal, as the agent lived them. What models and programs have written is
shown, and never obeyed by the terminal.
"""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.text import Text

from r2v_dist.errors import UsageError, harmless
from r2v_dist.evaluation.risk_quality import StepForecast, step_forecasts
from r2v_dist.evaluation.trained_routers import routers_of
from r2v_dist.object_storage import mirror as mirrors
from r2v_dist.router.baselines import entropy_of
from r2v_dist.router.model import RouterModel
from r2v_dist.router.names import DRAWN, FORECASTING, LEARNED
from r2v_dist.storage import rollouts as rollout_store
from r2v_dist.storage.remote_run import fetch_for_readers
from r2v_dist.storage.run_dir import RunDir, open_run


def show(
    root: Path,
    stage: str,
    *,
    router: str | None,
    task: str | None,
    z: int | None,
    failed: bool,
    limit: int,
) -> None:
    """Print up to `limit` episodes that match.

    Raises UsageError when the stage has no rollouts, or none of that router's, naming those that
    have.
    """
    fetch_for_readers(root)
    folder = root / "rollouts" / stage
    if not rollout_store.shards(folder):
        stages = sorted(
            path.name for path in (root / "rollouts").glob("*") if rollout_store.shards(path)
        )
        raise UsageError(
            f"{mirrors.shown(root)}: no rollouts of stage {stage}; there are "
            f"{', '.join(stages) or 'none'}"
        )
    RunDir(root).require_rollouts(stage)
    episodes = rollout_store.read(folder)
    played = {name.as_py() for name in pc.unique(episodes["router"].cast(pa.string()))}
    if router is not None and router not in played:
        raise UsageError(
            f"--router {router}: no episode of stage {stage} in {mirrors.shown(root)}; there are "
            f"{', '.join(sorted(played))}"
        )
    table = _matching(episodes, router, task, z, failed)
    console = Console(highlight=False)
    count = 0
    models = _routers(root, stage)
    for rows in rollout_store.episodes_of(table):
        if count == limit:
            console.print(f"… more; raise --limit above {limit}", style="dim")
            return
        count += 1
        episode = table.filter(pc.equal(table["key"].cast(pa.string()), rows[0]["key"]))
        _show_episode(console, rows, _risks(models, episode, rows[0]["router"]))
    if not count:
        console.print("no episode matches")


def _matching(
    table: pa.Table, router: str | None, task: str | None, z: int | None, failed: bool
) -> pa.Table:
    """The rows of the episodes that were asked for."""
    if router is not None:
        table = table.filter(pc.equal(table["router"], router))
    if task is not None:
        table = table.filter(pc.match_substring(table["task"].cast("string"), task))
    if z is not None:
        table = table.filter(pc.equal(table["z"], z))
    if failed:
        table = table.filter(pc.invert(table["success"]))
    return table


def _show_episode(
    console: Console, rows: list[dict[str, Any]], risks: dict[tuple[str, int], StepForecast]
) -> None:
    episode = rows[0]
    mark = Text(episode["stop_reason"], style="bold red")
    if episode["success"]:
        mark = Text("success", style="bold green")
    seed = "clean" if episode["z"] is None else episode["z"]
    title = ("\n" + episode["task"], "bold")
    console.print(Text.assemble(title, f"  z={seed}  {episode['arm']}  ", mark))
    console.print(harmless(f"Goal: {episode['goal']}"), markup=False)
    for row in rows:
        _show_step(console, row, risks.get((row["key"], row["t"])))
    console.print(harmless(episode["final_observation"]), markup=False, style="dim")
    if episode["detail"]:
        console.print(harmless(episode["detail"]), markup=False, style="red")


def _routers(root: Path, stage: str) -> tuple[dict[str, RouterModel], int | None]:
    """The routers whose risks can be shown, of the stage's training seed, and the step limit; none
    in a folder that is no whole run.
    """
    if not (root / "config.yaml").is_file():
        return {}, None
    run, config = open_run(root)
    seed = stage.partition("@")[2]
    return routers_of(run, config, int(seed) if seed.isdigit() else 0), config.env.max_steps


def _risks(
    models: tuple[dict[str, RouterModel], int | None], rows: pa.Table, router: str
) -> dict[tuple[str, int], StepForecast]:
    """By the router that played, else by r2v; what the query-level classifier says does not change
    with the step.
    """
    predicts_risk = router in LEARNED and router in FORECASTING
    model = models[0].get(router if predicts_risk else "r2v")
    return step_forecasts(model, rows, models[1]) if model is not None else {}


def _show_step(console: Console, row: dict[str, Any], risk: StepForecast | None) -> None:
    if row["t"] == -1:
        return
    perturbations = ", ".join(row["perturbations"] or [])
    console.print(
        Text.assemble(
            (f"  {row['t']:>2} ", "dim"),
            harmless(row["observation"]),
            (f"   ← {perturbations}" if perturbations else "", "yellow"),
        )
    )
    actor = Text(f"{row['actor']} > ", style="cyan" if row["actor"] == "slm" else "magenta")
    fault = "" if row["executed"] else "   (tool fault: not executed)"
    console.print(
        Text.assemble(
            "     ",
            actor,
            (harmless(row["action"]), "bold"),
            (_reasons(row, risk), "dim"),
            (fault, "red"),
        )
    )
    if scores := row["verifier_scores"]:
        ratings = "  ".join(
            f"{harmless(text)} {score:.2f}"
            for text, score in zip(row["candidate_texts"] or [], scores, strict=True)
        )
        console.print(Text.assemble(("     verifier: ", "dim"), (ratings, "dim")))


def _reasons(row: dict[str, Any], risk: StepForecast | None) -> str:
    """Entropy of the proposal, predicted risk of failing alone, and the score against its
    threshold: why it escalated, or did not.
    """
    top = row["first_top_logprobs"]
    score = row["score"]
    threshold = row["threshold"]
    parts = [f"entropy {entropy_of(top):.2f}"] if top else []
    if risk is not None:
        parts.append(
            f"risk {risk.alone:.2f}"
            + (f", {risk.after:.2f} after a teacher step" if risk.after is not None else "")
        )
        parts += [f"disagreement {risk.dissent:.2f}"] if risk.dissent is not None else []
    if score is not None and threshold is not None:
        parts.append(
            f"{'draw' if row['router'] in DRAWN else 'score'} {score:.3g} "
            f"{'<' if score < threshold else '≥'} {threshold:.3g}"
        )
    return "".join(f"   {part}" for part in parts)
