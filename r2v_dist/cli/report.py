"""`r2v report`: the report of a run, written and shown."""

import json
from typing import Annotated

import typer

from r2v_dist.cli.run_folder import RunFolder, may_be_read_only


def report(
    run_dir: RunFolder,
    as_json: Annotated[
        bool, typer.Option("--json", help="machine-readable; the schema is in docs/report.md")
    ] = False,
) -> None:
    """Write and show the report of a run."""
    from envs.registry import published
    from r2v_dist.evaluation.results import Findings
    from r2v_dist.pipeline.stages import stages
    from r2v_dist.report.headline import headline
    from r2v_dist.report.summary import require_evaluated, summary
    from r2v_dist.report.write import write_report
    from r2v_dist.storage.run_dir import open_run

    run, config = open_run(run_dir)
    require_evaluated(run, config)
    names = [stage.name for stage in stages(config)]
    findings = Findings.of(run, config)
    if as_json:
        print(json.dumps(summary(run, config, findings, names), indent=1))
        return
    with may_be_read_only():
        write_report(run, config, names, published(config.env.kind), findings)
    print(headline(run, config, findings))
