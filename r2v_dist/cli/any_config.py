"""A configuration of either kind, for the commands that take both."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from r2v_dist.cli.typed_path import read_as

if TYPE_CHECKING:
    from r2v_dist.config.run import RunConfig
    from r2v_dist.config.simulated import SimulatedConfig

ConfigFile = Annotated[
    Path,
    typer.Argument(metavar="CONFIG", help="YAML file of the run", callback=read_as("CONFIG")),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...", help="change a key, for example perturb.test_seeds=20"
    ),
]


def load_any(path: Path, overrides: list[str] | None) -> "RunConfig | SimulatedConfig":
    """The configuration, checked as far as it can be without the machines that it runs on."""
    from r2v_dist.config.run import load_config
    from r2v_dist.config.simulated import load_simulated

    simulated = load_simulated(path, overrides or [])
    if simulated is not None:
        return simulated
    from r2v_dist.pipeline.preflight import check_environment, check_operators

    config = load_config(path, overrides or [])
    check_environment(config)
    check_operators(config)
    return config
