"""`r2v tasks`: looking after tasks."""

import json
from pathlib import Path
from typing import Annotated

import typer

from r2v_dist.cli.typed_path import read_as
from r2v_dist.errors import RuntimeFailure

commands = typer.Typer(help="Check and list tasks.")
Root = Annotated[
    Path | None,
    typer.Option("--root", help="a prepared root (make terminal-root) instead of /usr"),
]


@commands.command()
def check(
    env: Annotated[
        str,
        typer.Argument(
            metavar="ENV",
            help="a run config, a directory of terminal tasks, an environment of your own "
            "(module:ATTRIBUTE or file.py:ATTRIBUTE), or humaneval_plus, mbpp_plus, shipped, "
            "terminal_bench or textworld",
        ),
    ],
    root: Root = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="machine-readable: {tasks, oracle_passed, empty_failed, failures, reasons, plays}",
        ),
    ] = False,
) -> None:
    """Check that the expert passes every task, and an agent that does nothing none."""
    from envs.check import check as check_tasks
    from envs.check import render
    from r2v_dist.pipeline.progress import Progress

    progress = Progress("check")
    result = check_tasks(env, lambda count, total: progress.update(count, total, "tasks"), root)
    print(json.dumps(result.to_json(), indent=1) if as_json else render(env, result))
    if not result.good:
        raise RuntimeFailure(
            f"{len(result.failures)} of {result.tasks} tasks of {env} are not in order: "
            f"{result.failures[0]}"
        )


@commands.command("list")
def list_tasks(
    directory: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="a directory of task folders, or one of them",
            callback=read_as("DIR"),
        ),
    ],
    root: Root = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="machine-readable: a list of {task, sandbox, docker, difficulty, category}",
        ),
    ] = False,
) -> None:
    """List the tasks of a directory: which back end can run each, and why not."""
    from envs.terminal_bench.listing import fit_of, render, task_folders
    from r2v_dist.config.terminal import TerminalConfig

    config = TerminalConfig(tasks=directory, root=root)
    fits = [fit_of(folder, config) for folder in task_folders(directory)]
    print(json.dumps([fit.to_json() for fit in fits], indent=1) if as_json else render(fits))
