"""The tasks of agent programs: one JSON line each."""

import hashlib
import json
from pathlib import Path
from typing import Any

from envs.sandbox.isolation import probe
from envs.spec import TaskRequest
from r2v_dist.config.env import SPLITS, EnvConfig
from r2v_dist.config.program import ProgramConfig
from r2v_dist.episodes import Task
from r2v_dist.errors import UsageError
from r2v_dist.seeding import rng_for

ENV_ID = "r2v/Program-v0"
_KEYS = {"id", "command", "check", "split", "goal"}


def make_tasks(request: TaskRequest) -> list[Task]:
    """The tasks of every split: those that name it, then others by lot. Raises UsageError."""
    config = request.config
    program = _program(config)
    _require_sandbox(program)
    rows = _rows(program.tasks)
    spare_rows = [row for row in rows if "split" not in row]
    rng_for("program tasks", request.seed).shuffle(spare_rows)
    tasks = []
    for split in SPLITS:
        split_rows = [row for row in rows if row.get("split") == split]
        count = config.size(split)
        task_rows = split_rows[:count]
        while len(task_rows) < count and spare_rows:
            task_rows.append(spare_rows.pop())
        if len(task_rows) < count:
            raise UsageError(
                f"{program.tasks}: {len(task_rows)} tasks for env.splits.{split} = {count}; add "
                f"some, or lower the number"
            )
        tasks += [_task(row, split, config, program) for row in task_rows]
    return tasks


def check_tasks(request: TaskRequest) -> None:
    """Raises UsageError where `make_tasks` would."""
    make_tasks(request)


def identity(config: EnvConfig) -> dict[str, str]:
    """The digest of the list of tasks; what a program is made of is not known here."""
    path = _program(config).tasks
    if not path.is_file():
        raise UsageError(f"env.program.tasks = {path}: there is no such file")
    return {path.name: hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()}


def _program(config: EnvConfig) -> ProgramConfig:
    if config.program is None:
        raise UsageError("env.kind = program: needs the section env.program with `tasks`")
    return config.program


def _require_sandbox(program: ProgramConfig) -> None:
    for place in program.shown:
        if not place.exists():
            raise UsageError(f"env.program.shown = {place}: there is no such file or folder")
    if program.sandbox and (isolation := probe()).level != "bubblewrap":
        raise UsageError(f"env.program.sandbox = true: {isolation.detail}")


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise UsageError(f"env.program.tasks = {path}: there is no such file")
    rows = []
    names = set[str]()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        row = _row(line, f"{path}:{number}")
        if row["id"] in names:
            raise UsageError(f"{path}:{number}: the id {row['id']} stands twice")
        names.add(row["id"])
        rows.append(row)
    return rows


def _row(line: str, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UsageError(f"{place}: no JSON ({error})") from None
    if not isinstance(row, dict) or not isinstance(row.get("id"), str):
        raise UsageError(f"{place}: a task is an object with an id")
    if unknown_keys := sorted(set(row) - _KEYS):
        raise UsageError(
            f"{place}: unknown key {unknown_keys[0]}; a task has {', '.join(sorted(_KEYS))}"
        )
    for name in ("command", "check"):
        value = row.get(name, [] if name == "check" else None)
        if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
            raise UsageError(f"{place}: {name} must be a list of strings")
    if not row["command"]:
        raise UsageError(f"{place}: command is empty")
    if row.get("split", "train") not in SPLITS:
        raise UsageError(f"{place}: split = {row['split']}: there are {', '.join(SPLITS)}")
    return row


def _task(row: dict[str, Any], split: str, config: EnvConfig, program: ProgramConfig) -> Task:
    folder = str(program.tasks.resolve().parent)

    def placed(command: list[str]) -> str:
        return json.dumps([part.replace("{folder}", folder) for part in command])

    arguments: list[tuple[str, str | int | bool]] = [
        ("command", placed(row["command"])),
        ("max_steps", config.max_steps),
        ("pass_environment", json.dumps(program.pass_environment)),
    ]
    if row.get("check"):
        arguments.append(("check", placed(row["check"])))
    if row.get("goal"):
        arguments.append(("goal", row["goal"]))
    if program.sandbox:
        places = [folder, *(str(place.resolve()) for place in program.shown)]
        arguments += [("sandbox", True), ("shown", json.dumps(places))]
    for name in ("first_request_s", "step_s", "episode_s", "check_s"):
        arguments.append((name, getattr(program, name)))
    return Task(row["id"], split, ENV_ID, tuple(arguments))
