"""Which environments there are. A row of `ENVIRONMENTS` is all that one of ours needs beside its
folder; one of a user's own is named by the configuration in the same notation.

`environment(kind)` is the door for configurations, `environment_of(task)` the one for tasks.
"""

import difflib
from functools import cache
from importlib import import_module

from envs.own import EnvSource
from envs.spec import EnvSpec
from r2v_dist.config.env import is_own
from r2v_dist.episodes import Task
from r2v_dist.errors import UsageError
from r2v_dist.report.published import Published

ENVIRONMENTS = {
    "textworld": "envs.textworld.spec:SPEC",
    "humaneval_plus": "envs.coding.spec:SPEC",
    "terminal_bench": "envs.terminal_bench.spec:SPEC",
    "simulated": "envs.simulated.spec:SPEC",
    "program": "envs.program.spec:SPEC",
}
_own: dict[str, EnvSpec] = {}
"""Environments of a user's own that this process has loaded, by their names."""


def environment(kind: str) -> EnvSpec:
    """The environment that `env.kind` names. Raises UsageError where there is none."""
    if is_own(kind):
        return load(EnvSource.of(kind))
    if kind not in ENVIRONMENTS:
        near = difflib.get_close_matches(kind, ENVIRONMENTS, n=1, cutoff=0.0)[0]
        raise UsageError(
            f"env.kind = {kind}: no such environment; did you mean {near}? There are "
            f"{', '.join(ENVIRONMENTS)}, and your own as module:ATTRIBUTE or file.py:ATTRIBUTE"
        )
    return _built_in(kind)


def load(source: EnvSource) -> EnvSpec:
    """The environment of a source. Its tasks can be played in this process from here on.

    Raises UsageError, in one line, for whatever keeps it from being loaded.
    """
    if not is_own(source.kind):
        return environment(source.kind)
    spec = source.load()
    for kind in ENVIRONMENTS:
        if shared_ids := set(spec.names) & set(_built_in(kind).names):
            raise UsageError(
                f"env.kind = {source.kind}: the id {sorted(shared_ids)[0]} belongs to the "
                f"environment {kind}; choose another"
            )
    _own.update(dict.fromkeys(spec.names, spec))
    return spec


def environment_of(task: Task) -> EnvSpec:
    """The environment in which a task is played. Raises UsageError for one that nobody loaded."""
    if task.env in _own:
        return _own[task.env]
    for kind in ENVIRONMENTS:
        if task.env in _built_in(kind).names:
            return _built_in(kind)
    raise UsageError(
        f"task {task.id}: no environment has the id {task.env}; a task's env is the id of its "
        f"EnvSpec"
    )


def published(kind: str) -> Published | None:
    """What the literature reports for an environment. A user's own is not loaded for it, so that
    the report of a finished run can be written where its environment is not.
    """
    return _built_in(kind).published if kind in ENVIRONMENTS else None


@cache
def _built_in(kind: str) -> EnvSpec:
    module, _, attribute = ENVIRONMENTS[kind].partition(":")
    spec = getattr(import_module(module), attribute)
    assert isinstance(spec, EnvSpec)
    return spec
