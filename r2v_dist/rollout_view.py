"""Episodes on the terminal, as the agent lived them."""

from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from rich.console import Console
from rich.text import Text

from r2v_dist import rollout_store
from r2v_dist.errors import UsageError
from r2v_dist.routers import entropy_of


def show(root: Path, stage: str, *, router: str | None, task: str | None, z: int | None, failed: bool, limit: int) -> None:
    """Print up to `limit` episodes that match.

    Raises UsageError when the stage has no rollouts, naming those that have.
    """
    folder = root / "rollouts" / stage
    if not rollout_store.shards(folder):
        have = sorted(path.name for path in (root / "rollouts").glob("*") if rollout_store.shards(path))
        raise UsageError(f"{root}: no rollouts of stage {stage}; there are {', '.join(have) or 'none'}")
    table = rollout_store.read(folder)
    if router is not None:
        table = table.filter(pc.equal(table["router"], router))
    if task is not None:
        table = table.filter(pc.match_substring(table["task"].cast("string"), task))
    if z is not None:
        table = table.filter(pc.equal(table["z"], z))
    if failed:
        table = table.filter(pc.invert(table["success"]))
    console, shown = Console(highlight=False), 0
    for rows in rollout_store.episodes_of(table):
        if shown == limit:
            console.print(f"… more; raise --limit above {limit}", style="dim")
            return
        shown += 1
        first = rows[0]
        mark = Text("success", style="bold green") if first["success"] else Text(first["stop_reason"], style="bold red")
        console.print(
            Text.assemble(("\n" + first["task"], "bold"), f"  z={'clean' if first['z'] is None else first['z']}  {first['arm']}  ", mark)
        )
        console.print(f"Goal: {first['goal']}", markup=False)
        for row in rows:
            _show_step(console, row)
        console.print(first["final_observation"], markup=False, style="dim")
        if first["detail"]:
            console.print(first["detail"], markup=False, style="red")
    if not shown:
        console.print("no episode matches")


def _show_step(console: Console, row: dict[str, Any]) -> None:
    if row["t"] == -1:
        return
    told = ", ".join(row["perturbations"] or [])
    console.print(Text.assemble((f"  {row['t']:>2} ", "dim"), str(row["observation"]), (f"   ← {told}" if told else "", "yellow")))
    who = Text(f"{row['actor']} > ", style="cyan" if row["actor"] == "slm" else "magenta")
    fault = "" if row["executed"] else "   (tool fault: not executed)"
    top = row["first_top_logprobs"]
    entropy = f"   entropy {entropy_of(top):.2f}" if top else ""
    console.print(Text.assemble("     ", who, (str(row["action"]), "bold"), (entropy, "dim"), (fault, "red")))
