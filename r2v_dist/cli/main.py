"""The command line. Nothing heavy is imported before a command needs it; bad input ends in one line
and exit code 2.
"""

import argparse
import errno
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from r2v_dist import __version__
from r2v_dist.errors import RuntimeFailure, UsageError, explain

if TYPE_CHECKING:
    from r2v_dist.config.simulated import SimulatedConfig


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `r2v`."""
    parser = _parser()
    args, left = parser.parse_known_args(arguments)
    # argparse takes positional arguments up to the first option only.
    if left and (not hasattr(args, "overrides") or any(one.startswith("-") for one in left)):
        parser.error(f"unrecognized arguments: {' '.join(left)}")
    if left:
        args.overrides += left
    try:
        args.command(args)
    except UsageError as error:
        sys.exit(_complain(error, 2))
    except RuntimeFailure as error:
        sys.exit(_complain(error, 1))
    except KeyboardInterrupt:
        sys.exit(
            _complain(RuntimeFailure("interrupted; run the same command again to continue"), 130)
        )
    except BrokenPipeError:
        sys.stderr.close()
    except OSError as error:
        sys.exit(_complain(RuntimeFailure(explain(error)), 1))


def _complain(error: Exception, code: int) -> int:
    print(f"r2v: {error}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="r2v",
        description="Train, certify and serve a router that decides at every step of an agent who acts: SLM or teacher.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run a configuration from where it stands")
    run.add_argument("config", type=Path)
    run.add_argument(
        "overrides", nargs="*", metavar="key=value", help="for example perturb.test_seeds=20"
    )
    run.add_argument(
        "--dry-run",
        action="store_true",
        help="print the resolved configuration and the resources, then stop",
    )
    run.set_defaults(command=_run)

    report = commands.add_parser("report", help="write and show the report of a run")
    report.add_argument("run_dir", type=Path)
    report.add_argument(
        "--json", action="store_true", help="machine-readable; the schema is in docs/report.md"
    )
    report.set_defaults(command=_report)

    certify = commands.add_parser(
        "certify", help="the cheapest threshold whose risk is bounded, or why there is none"
    )
    certify.add_argument("run_dir", type=Path)
    certify.add_argument(
        "--risk",
        type=float,
        help="the most a new task may fail on average; default: certificate.risk of the run",
    )
    certify.add_argument(
        "--delta",
        type=float,
        help="the chance that the promise is wrong; default: certificate.delta of the run",
    )
    certify.add_argument(
        "--statistic",
        choices=("mean", "cvar"),
        help="a task's loss over its seeds; default: as the run says",
    )
    certify.set_defaults(command=_certify)

    rollouts = commands.add_parser("rollouts", help="look at episodes")
    rollouts.add_argument("run_dir", type=Path)
    rollouts.add_argument("--stage", default="evaluate")
    rollouts.add_argument("--router", help="only this router's episodes")
    rollouts.add_argument("--task", help="only tasks whose id contains this")
    rollouts.add_argument("--seed", type=int, help="only this perturbation seed")
    rollouts.add_argument("--failed", action="store_true", help="only episodes that failed")
    rollouts.add_argument("--limit", type=int, default=3)
    rollouts.set_defaults(command=_rollouts)

    tasks = commands.add_parser("tasks", help="look after tasks").add_subparsers(
        required=True, metavar="ACTION"
    )
    check = tasks.add_parser(
        "check", help="does the expert pass every task, and an agent that does nothing none?"
    )
    check.add_argument(
        "env",
        metavar="ENV",
        help="a run config, or humaneval_plus, mbpp_plus, shipped or textworld",
    )
    check.add_argument(
        "--json",
        action="store_true",
        help="machine-readable: {tasks, oracle_passed, empty_failed, failures, reasons}",
    )
    check.set_defaults(command=_check_tasks)

    doctor = commands.add_parser("doctor", help="versions, devices, memory, engines, sandbox")
    doctor.add_argument("--json", action="store_true")
    doctor.set_defaults(command=_doctor)
    return parser


def _run(args: argparse.Namespace) -> None:
    from r2v_dist.config.run import load_config
    from r2v_dist.config.simulated import load_simulated
    from r2v_dist.pipeline.preflight import check, check_operators, resource_plan

    simulated = load_simulated(args.config, args.overrides)
    if simulated is not None:
        _run_simulated(simulated, args.dry_run)
        return
    config = load_config(args.config, args.overrides)
    check_operators(config)
    if args.dry_run:
        import yaml

        print(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), end="")
        print(resource_plan(config))
        return
    check(config)
    from r2v_dist.pipeline.run import execute
    from r2v_dist.report.write import show_headline

    print(show_headline(execute(config)))


def _run_simulated(config: "SimulatedConfig", dry_run: bool) -> None:
    from r2v_dist.pipeline.preflight import check_simulated, simulated_plan
    from r2v_dist.storage.run_dir import RunDir

    if dry_run:
        print(simulated_plan(config))
        return
    check_simulated(config)
    from cluster.session import ray_session
    from r2v_dist.pipeline.simulated.run import render, simulate

    session = (
        ray_session(config.cluster, config.run_dir / "logs") if config.needs_ray else nullcontext()
    )
    run = RunDir(config.run_dir)
    with run.lock(), session:
        report = run.repairing(lambda: simulate(config))
    print(render(report))
    print(f"Report: {config.run_dir / 'report' / 'index.html'}")


def _report(args: argparse.Namespace) -> None:
    from r2v_dist.evaluation.results import Findings
    from r2v_dist.pipeline.stages import stages
    from r2v_dist.report.headline import headline
    from r2v_dist.report.summary import require_evaluated, summary
    from r2v_dist.report.write import write_report
    from r2v_dist.storage.run_dir import open_run

    run, config = open_run(args.run_dir)
    require_evaluated(run, config)
    names = [stage.name for stage in stages(config)]
    found = Findings.of(run, config)
    if args.json:
        print(json.dumps(summary(run, config, found, names), indent=1))
        return
    with _may_be_read_only():
        write_report(run, config, names, found)
    print(headline(run, config, found))


def _certify(args: argparse.Namespace) -> None:
    from r2v_dist.evaluation.certificate import STAGE, certificate_of
    from r2v_dist.files import write_atomically
    from r2v_dist.storage.run_dir import open_run

    run, config = open_run(args.run_dir)
    run.require_rollouts(STAGE)
    found = certificate_of(run, config, args.risk, args.delta, args.statistic)
    target = run.root / "report" / "certificate.json"
    print(found.render())
    with _may_be_read_only():
        write_atomically(target, json.dumps(found.as_dict(), indent=1))
        print(f"Written to {target}")


@contextmanager
def _may_be_read_only() -> Iterator[None]:
    """What a finished run shows can be seen where nothing can be written; only a copy
    is missing.
    """
    from r2v_dist.errors import warn

    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        warn(f"shown only, not written: {explain(error)}")


def _rollouts(args: argparse.Namespace) -> None:
    from r2v_dist.report.terminal import show

    show(
        args.run_dir,
        args.stage,
        router=args.router,
        task=args.task,
        z=args.seed,
        failed=args.failed,
        limit=args.limit,
    )


def _check_tasks(args: argparse.Namespace) -> None:
    from envs.check import check, render
    from r2v_dist.pipeline.progress import Progress

    progress = Progress("check")
    result = check(args.env, lambda done, total: progress.update(done, total, "tasks"))
    print(json.dumps(result.to_json(), indent=1) if args.json else render(args.env, result))
    if not result.good:
        raise RuntimeFailure(
            f"{len(result.failures)} of {result.tasks} tasks of {args.env} are not in order: "
            f"{result.failures[0]}"
        )


def _doctor(args: argparse.Namespace) -> None:
    from r2v_dist.cli.machine import examine, render

    findings = examine()
    print(json.dumps(findings, indent=1) if args.json else render(findings))
