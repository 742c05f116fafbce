"""`r2v tasks`: looking after tasks."""

import json
from typing import Annotated

import typer

from r2v_dist.errors import RuntimeFailure

commands = typer.Typer(help="Look after tasks.")


@commands.callback()
def _tasks() -> None:
    """Keeps `check` a command of its own, though it is the only one."""


@commands.command()
def check(
    env: Annotated[
        str,
        typer.Argument(
            metavar="ENV",
            help="a run config, an environment of your own (module:ATTRIBUTE or "
            "file.py:ATTRIBUTE), or humaneval_plus, mbpp_plus, shipped or textworld",
        ),
    ],
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="machine-readable: {tasks, oracle_passed, empty_failed, failures, reasons}",
        ),
    ] = False,
) -> None:
    """Check that the expert passes every task, and an agent that does nothing none."""
    from envs.check import check as check_tasks
    from envs.check import render
    from r2v_dist.pipeline.progress import Progress

    progress = Progress("check")
    result = check_tasks(env, lambda done, total: progress.update(done, total, "tasks"))
    print(json.dumps(result.to_json(), indent=1) if as_json else render(env, result))
    if not result.good:
        raise RuntimeFailure(
            f"{len(result.failures)} of {result.tasks} tasks of {env} are not in order: "
            f"{result.failures[0]}"
        )
