"""`r2v serve`: the gateway in front of agents."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from r2v_dist.cli.run_folder import RunFolder


def serve(
    run_dir: RunFolder,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="change a key of the run, for example serve.operating_point=certified",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="address to bind to")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="port; 0 takes a free one")] = 8080,
    executor: Annotated[
        Literal["uvicorn", "ray-serve"],
        typer.Option(help="uvicorn in this process, or a deployment of Ray Serve"),
    ] = "uvicorn",
) -> None:
    """Serve a finished run's router behind an OpenAI-compatible endpoint."""
    from r2v_dist.pipeline.serving import access_of, served_run, started
    from r2v_dist.serving.access import require_safe
    from r2v_dist.serving.server import listen, run_server

    served = served_run(run_dir, overrides or [])
    access = access_of(served.config, host)
    require_safe(host, access)
    point = served.policy.points[served.policy.default]
    at = "" if point.threshold is None else f", threshold {point.threshold:.4g}"
    why = f"{point.name}{at}: {point.note}"
    if executor == "ray-serve":
        from r2v_dist.pipeline.serving_on_ray import served_on_ray, wait_for_a_signal

        with served_on_ray(served, host, port) as actual_port:
            _tell(run_dir, host, actual_port, why)
            wait_for_a_signal()
        return
    with listen(host, port) as socket, started(served, access) as (application, app):
        address = socket.getsockname()
        _tell(run_dir, address[0], address[1], why)
        run_server(application, app, socket, served.config.serve.grace_s)


def _tell(run_dir: Path, host: str, port: int, why: str) -> None:
    from r2v_dist.object_storage.mirror import shown

    name = f"[{host}]" if ":" in host else host
    print(f"r2v serves {shown(run_dir)} at http://{name}:{port}/v1\n{why}", flush=True)
