"""An environment of a user's own, from a file or a module: loaded anywhere from what was read where
the run began; whatever is wrong with it is one line.
"""

import asyncio
import json
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from actors.env_runner import Deployment, EnvRunner, RunnerSetup
from envs.own import EnvSource
from envs.registry import environment, load
from envs.tasks import check_tasks, identity, make_tasks
from r2v_dist.cli.main import main
from r2v_dist.config.env import EnvConfig, SplitSizes
from r2v_dist.config.models import ModelConfig, SamplingConfig
from r2v_dist.config.perturbation import PerturbConfig
from r2v_dist.config.run import load_config
from r2v_dist.config.verifier import VerifierConfig
from r2v_dist.episodes import Arm, Episode, StopReason, Unit
from r2v_dist.errors import UsageError
from tests.runs import ROOT

EXAMPLE = f"{ROOT}/examples/own_environment.py:SPEC"
RUN = ROOT / "examples" / "own_environment.yaml"
HEAD = "from envs.spec import EnvSpec\nfrom r2v_dist.episodes import Task\n"


def quiet(done: int, total: int) -> None:
    """Shows no progress."""


def written(folder: Path, text: str, name: str = "mine.py") -> str:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(HEAD + text)
    return f"{folder / name}:SPEC"


def of_kind(kind: str, **keys: Any) -> EnvConfig:
    return EnvConfig(kind=kind, splits=SplitSizes(train=2, validation=1, test=1), **keys)


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, from which modules are found."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "attribute", "said"),
    [
        ("SPEC = 1\n", "SPEC", "SPEC is of type int; name an envs.spec.EnvSpec"),
        ("OTHER = EnvSpec('o-v0', dict, list)\n", "SPEC", "no SPEC in it; it has OTHER"),
        ("", "SPEC", "no SPEC in it; write SPEC = EnvSpec(...)"),
        ("SPEC = EnvSpec('a name', dict, list)\n", "SPEC", "id 'a name'; write one like mine/"),
        ("1 / 0\n", "SPEC", "importing it failed: ZeroDivisionError: division by zero ("),
        ("raise SystemExit(3)\n", "SPEC", "importing it failed: SystemExit: 3"),
        ("def broken(:\n", "SPEC", "importing it failed: SyntaxError"),
        ("import nowhere_at_all\n", "SPEC", "No module named 'nowhere_at_all'"),
        (
            "SPEC = EnvSpec('r2v/TextWorld-v0', dict, list)\n",
            "SPEC",
            "the id r2v/TextWorld-v0 belongs to the environment textworld",
        ),
    ],
)
def test_what_cannot_be_loaded_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, attribute: str, said: str
) -> None:
    kind = written(tmp_path, text).replace(":SPEC", f":{attribute}")
    with pytest.raises(SystemExit) as ended:
        main(["run", str(RUN), "--dry-run", f"env.kind={kind}"])
    assert ended.value.code == 2
    errors = capsys.readouterr().err.strip()
    assert said in errors
    assert f"env.kind = {kind}" in errors
    assert "\n" not in errors


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("nothing.py:SPEC", "nothing.py; correct it"),
        ("nowhere_at_all.envs:SPEC", "No module named 'nowhere_at_all'"),
        (".:SPEC", "write the name of an environment, or your own as package.module:ATTRIBUTE"),
        ("mine.py", "write the name of an environment"),
    ],
)
def test_what_is_not_there_is_named(
    capsys: pytest.CaptureFixture[str], kind: str, said: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", str(RUN), "--dry-run", f"env.kind={kind}"])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_a_module_is_found_from_the_working_directory(in_tmp: Path) -> None:
    written(in_tmp, "SPEC = EnvSpec('modules/One-v0', dict, list)\n", "module_of_mine.py")
    assert environment("module_of_mine:SPEC").id == "modules/One-v0"
    config = of_kind("module_of_mine:SPEC")
    [(name, digest)] = identity(config).items()
    assert name == "module_of_mine:SPEC"
    assert digest == identity(of_kind(f"{in_tmp}/module_of_mine.py:SPEC"))["module_of_mine.py:SPEC"]


def test_a_runner_needs_no_file(tmp_path: Path) -> None:
    kind = written(tmp_path, "SPEC = EnvSpec('files/Gone-v0', dict, list)\n")
    sent = pickle.dumps(EnvSource.of(kind))
    (tmp_path / "mine.py").unlink()
    assert load(pickle.loads(sent)).id == "files/Gone-v0"


def test_bytes_are_part_of_the_keys_and_places_are_not(tmp_path: Path) -> None:
    text = "SPEC = EnvSpec('files/Key-v0', dict, list)\n"
    here = of_kind(written(tmp_path / "here", text))
    there = of_kind(written(tmp_path / "there", text))
    other = of_kind(written(tmp_path / "other", f"{text}# changed\n"))
    assert here.content() == there.content() == other.content()
    assert identity(here) == identity(there) != identity(other)
    assert str(tmp_path) not in json.dumps([here.content(), identity(here)])


def test_options_are_any_mapping_and_part_of_the_keys(tmp_path: Path) -> None:
    kind = written(tmp_path, "SPEC = EnvSpec('files/Options-v0', dict, list)\n")
    plain = load_config(RUN, [f"env.kind={kind}"])
    assert "options" not in plain.env.content()
    given = ["env.options={levels: [1, 2.5], name: x, deep: {yes: true, none: null}}"]
    config = load_config(RUN, [f"env.kind={kind}", *given])
    expected = {"levels": [1, 2.5], "name": "x", "deep": {"yes": True, "none": None}}
    assert config.env.options == expected
    assert config.env.content()["options"] == expected
    main(["run", str(RUN), "--dry-run", f"env.kind={kind}", *given])
    with pytest.raises(UsageError, match=r"env\.options are for an environment of your own"):
        load_config(ROOT / "configs" / "textworld_demo.yaml", given)
    with pytest.raises(UsageError, match=r"env\.options"):
        load_config(RUN, ["env.options={x: .inf}"])


TASKS = "def tasks(request):\n    return {}\nSPEC = EnvSpec('files/Bad-v0', dict, tasks)\n"
ONE = "Task('{}', '{}', '{}', ())"


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        ("1 / 0", "make_tasks failed: ZeroDivisionError"),
        ("7", "it gave something else than a list"),
        ("[]", r"0 tasks of split train where env\.splits\.train = 2; make as many"),
        (
            f"[{ONE.format('a', 'train', 'files/Bad-v0')}] * 2",
            "two tasks are called a; give every problem a name of its own",
        ),
        (
            f"[{ONE.format('a', 'train', 'other-v0')}]",
            "task a has the env other-v0; write files/Bad-v0, the id of the EnvSpec",
        ),
    ],
)
def test_tasks_that_are_not_in_order_are_refused_before_anything_starts(
    tmp_path: Path, tasks: str, said: str
) -> None:
    config = of_kind(written(tmp_path, TASKS.format(tasks)))
    with pytest.raises(UsageError, match=said):
        check_tasks(config, 0)


def test_the_example_is_short_and_its_tasks_are_drawn_by_the_seed() -> None:
    assert len((ROOT / "examples" / "own_environment.py").read_text().splitlines()) <= 60
    config = of_kind(EXAMPLE)
    first = make_tasks(config, 0, 1, quiet)
    assert first == make_tasks(config, 0, 1, quiet)
    assert not {task.id for task in first} & {task.id for task in make_tasks(config, 1, 1, quiet)}


def test_the_example_is_checked_by_the_same_command(capsys: pytest.CaptureFixture[str]) -> None:
    main(["tasks", "check", EXAMPLE])
    assert "20 tasks, the expert passed 20, the empty agent failed 20" in capsys.readouterr().out


def played(slm: ModelConfig, deployment: Deployment, routers: Sequence[str]) -> list[Episode]:
    """Episodes of the example under many seeds, by a runner that knows only what it was sent."""
    source = pickle.loads(pickle.dumps(EnvSource.of(EXAMPLE)))
    setup = RunnerSetup(
        slm, ModelConfig(backend="expert"), "", "", PerturbConfig(), 60.0, environment=source
    )
    runner = EnvRunner(setup, None, None, deployment)
    arms = tuple(Arm(name, None, "simulated-0.3", "expert", 0) for name in routers)
    tasks = make_tasks(of_kind(EXAMPLE, max_steps=16), 0, 1, quiet)
    found: list[Episode] = []

    async def deliver(episodes: Sequence[Episode]) -> None:
        found.extend(episodes)

    async def play() -> None:
        for task in tasks:
            for z in range(20):
                await runner.run(Unit("evaluate", "h", task, z, 0, arms), deliver)

    asyncio.run(play())
    return found


def test_the_example_is_played_perturbed_and_the_teacher_is_worth_asking() -> None:
    slm = ModelConfig(backend="simulated", failure_rate=0.3, sampling=SamplingConfig(candidates=2))
    episodes = played(slm, Deployment(None, None), ("slm_only", "teacher_only"))
    alone = [one.success for one in episodes if one.arm.router == "slm_only"]
    taught = [one.success for one in episodes if one.arm.router == "teacher_only"]
    assert 0.05 < sum(alone) / len(alone) < 0.6
    assert sum(taught) / len(taught) > 0.95
    steps = [step for one in episodes for step in one.steps]
    assert any(step.perturbations for step in steps)
    assert not any(step.drift for step in steps)
    assert {one.stop_reason for one in episodes} <= {
        StopReason.WON,
        StopReason.LOST,
        StopReason.STEP_LIMIT,
    }


RULED = f"""
import dataclasses
from envs.registry import environment
class Likes:
    async def score(self, history, user, candidates):
        return tuple(float(candidate.text != 'wait') for candidate in candidates)
SPEC = dataclasses.replace(environment({EXAMPLE!r}), rules=lambda sandbox: Likes())
"""


def test_an_environment_brings_its_own_rules(tmp_path: Path) -> None:
    rules = VerifierConfig(kind="rules")
    source = EnvSource.of(written(tmp_path, RULED))
    slm = ModelConfig(backend="simulated", failure_rate=0.3, sampling=SamplingConfig(candidates=5))
    setup = RunnerSetup(
        slm, ModelConfig(backend="expert"), "", "", PerturbConfig(), 60.0, environment=source
    )
    runner = EnvRunner(setup, None, None, Deployment(rules, None))
    [task, *_] = make_tasks(of_kind(source.kind, max_steps=16), 0, 1, quiet)
    arm = Arm("best_of_k", None, "simulated-0.3", "expert", 0, rules.version)
    found: list[Episode] = []

    async def deliver(episodes: Sequence[Episode]) -> None:
        found.extend(episodes)

    asyncio.run(runner.run(Unit("evaluate", "h", task, None, 0, (arm,)), deliver))
    [episode] = found
    assert episode.success
    assert all(step.action != "wait" for step in episode.steps)
