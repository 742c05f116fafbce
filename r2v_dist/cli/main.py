"""The command line: one module a command. Nothing heavy is imported before a command needs it, and
whatever goes wrong ends in one line: exit code 2 for bad input, 1 for a failure of the machine.
"""

import io
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException
from typer.main import get_command

from r2v_dist import __version__
from r2v_dist.cli import manifests, models, tasks
from r2v_dist.cli.certify import certify
from r2v_dist.cli.doctor import doctor
from r2v_dist.cli.estimate import estimate
from r2v_dist.cli.export import export
from r2v_dist.cli.jobs import jobs
from r2v_dist.cli.logs import logs
from r2v_dist.cli.report import report
from r2v_dist.cli.rollouts import rollouts
from r2v_dist.cli.run import run
from r2v_dist.cli.serve import serve
from r2v_dist.cli.stop import stop
from r2v_dist.cli.submit import submit
from r2v_dist.errors import RuntimeFailure, UsageError, explain, harmless

_COMMANDS: tuple[Callable[..., None], ...] = (
    run,
    submit,
    jobs,
    logs,
    stop,
    report,
    certify,
    rollouts,
    export,
    serve,
    estimate,
    doctor,
)
_INTERRUPTED = 130
"""What typer returns for a command that the user interrupted."""

_app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in _COMMANDS:
    _app.command()(_command)
_app.add_typer(manifests.commands, name="manifests")
_app.add_typer(tasks.commands, name="tasks")
_app.add_typer(models.commands, name="models")


def _show_version(show: bool) -> None:
    if show:
        print(__version__)
        raise typer.Exit


@_app.callback()
def _r2v(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="show the version and stop"
        ),
    ] = False,
) -> None:
    """Train, certify and serve a router that decides at every step of an agent who acts: SLM or
    teacher.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `r2v`."""
    _show_what_can_be_shown()
    try:
        code = get_command(_app).main(arguments, prog_name="r2v", standalone_mode=False)
    except TyperException as error:
        sys.exit(_complain(_said(error), 2))
    except UsageError as error:
        sys.exit(_complain(str(error), 2))
    except RuntimeFailure as error:
        sys.exit(_complain(str(error), 1))
    except OSError as error:
        sys.exit(_complain(explain(error), 1))
    if code == _INTERRUPTED:
        sys.exit(_complain("interrupted; run the same command again to continue", code))


def _show_what_can_be_shown() -> None:
    """Where the terminal has no UTF-8, print `?` for the letters that it lacks."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _said(error: TyperException) -> str:
    """What is wrong with the command line, the value where one was refused, and where help is."""
    message = " ".join(error.format_message().split()).rstrip(".?")
    errors: list[dict[str, Any]] = getattr(error.__cause__, "errors", list)()
    if errors:
        message += f", not {errors[0]['input']!r}"
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "r2v"
    return f"{message[0].lower()}{message[1:]}; see `{command} --help`"


def _complain(message: str, code: int) -> int:
    line = "\\n".join(message.split("\n"))
    print(f"r2v: {harmless(line)}", file=sys.stderr)
    return code
