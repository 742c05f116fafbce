"""`r2v estimate`: other thresholds and alarms, from a request log."""

import json
from pathlib import Path
from typing import Annotated

import typer

from r2v_dist.cli.run_folder import RunFolder


def _log(text: str) -> Path:
    from r2v_dist.config.places import named_path

    return named_path(text, "LOG")


def estimate(
    run_dir: RunFolder,
    logs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[LOG]...",
            help="folders of request logs; default: gateway/requests of the run",
            parser=_log,
        ),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="only this threshold, beside the one that is served")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable")] = False,
) -> None:
    """Estimate other thresholds from judged traffic, and say what to do."""
    from r2v_dist.pipeline.estimate import estimate as estimated

    report = estimated(run_dir, logs or [], threshold)
    print(json.dumps(report.as_dict(), indent=1) if as_json else report.render())
