"""`r2v serve`: the gateway in front of agents."""

from typing import Annotated

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
) -> None:
    """Serve a finished run's router behind an OpenAI-compatible endpoint."""
    from r2v_dist.object_storage.mirror import shown
    from r2v_dist.pipeline.serving import access_of, served_run, started
    from r2v_dist.serving.access import require_safe
    from r2v_dist.serving.server import listen, run_server

    served = served_run(run_dir, overrides or [])
    access = access_of(served.config, host)
    require_safe(host, access)
    with listen(host, port) as socket, started(served, access) as (application, app):
        address = socket.getsockname()
        name = f"[{address[0]}]" if ":" in address[0] else address[0]
        print(f"r2v serves {shown(run_dir)} at http://{name}:{address[1]}/v1", flush=True)
        run_server(application, app, socket, served.config.serve.grace_s)
