"""`r2v doctor`: what this machine can do."""

import json
from typing import Annotated

import typer


def doctor(
    as_json: Annotated[
        bool, typer.Option("--json", help="machine-readable; the schema is in docs/report.md")
    ] = False,
) -> None:
    """Show versions, devices, memory, engines and the sandbox."""
    from r2v_dist.cli.machine import examine, render

    findings = examine()
    print(json.dumps(findings, indent=1) if as_json else render(findings))
