"""`r2v certify`: the certificate of a finished run, without playing an episode."""

import json
from typing import Annotated, Literal

import typer

from r2v_dist.cli.run_folder import RunFolder, may_be_read_only


def certify(
    run_dir: RunFolder,
    risk: Annotated[
        float | None,
        typer.Option(
            help="largest mean failure of a new task; default: certificate.risk of the run"
        ),
    ] = None,
    delta: Annotated[
        float | None,
        typer.Option(
            help="probability that the bound is wrong; default: certificate.delta of the run"
        ),
    ] = None,
    statistic: Annotated[
        Literal["mean", "cvar"] | None,
        typer.Option(
            help="a task's loss over its seeds; default: certificate.statistic of the run"
        ),
    ] = None,
) -> None:
    """Find the cheapest threshold whose risk is bounded, or say why there is none."""
    from r2v_dist.evaluation.certificate import STAGE, certificate_of
    from r2v_dist.files import write_atomically
    from r2v_dist.object_storage.mirror import shown
    from r2v_dist.storage.run_dir import open_run

    run, config = open_run(run_dir)
    run.require_rollouts(STAGE)
    certificate = certificate_of(run, config, risk, delta, statistic)
    target = run.root / "report" / "certificate.json"
    print(certificate.render())
    with may_be_read_only():
        write_atomically(target, json.dumps(certificate.as_dict(), indent=1))
        print(f"Written to {shown(target)}")
