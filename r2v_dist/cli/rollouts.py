"""`r2v rollouts`: episodes of a run, step by step."""

from typing import Annotated

import typer

from r2v_dist.cli.run_folder import RunFolder


def rollouts(
    run_dir: RunFolder,
    stage: Annotated[str, typer.Option(help="stage that played them")] = "evaluate",
    router: Annotated[str | None, typer.Option(help="only this router's episodes")] = None,
    task: Annotated[str | None, typer.Option(help="only tasks whose id contains this")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**31 - 1, help="only this perturbation seed")
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="only episodes that failed")] = False,
    limit: Annotated[int, typer.Option(min=1, max=10**9, help="most episodes to show")] = 3,
) -> None:
    """Show episodes of a run."""
    from r2v_dist.report.terminal import show

    show(run_dir, stage, router=router, task=task, z=seed, failed=failed, limit=limit)
