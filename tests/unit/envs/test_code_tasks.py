"""Tasks are data: the shipped ones always, the benchmarks where R2V_DATA_DIR names them; visible
tests come from the prompt.
"""

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest

from envs.coding.tasks import dataset_of, load_task, task_ids
from envs.coding.visible_tests import VisibleTest, visible_tests
from envs.sandbox.isolation import means
from envs.tasks import identity, make_tasks
from r2v_dist.config.env import CodeConfig, EnvConfig, SplitSizes
from r2v_dist.config.sandbox import SandboxConfig
from r2v_dist.errors import UsageError
from tests.codes import require_data


def passes_its_examples(dataset: Any, task_id: str) -> bool:
    task = load_task(dataset, task_id)
    scope: dict[str, Any] = {"math": math}
    exec(task.code, scope)
    return all(
        math.isclose(got, want, abs_tol=1e-6) if isinstance(want, float) else got == want
        for test in task.visible
        for got, want in [(eval(test.expression, scope), eval(test.expected, scope))]
    )


def test_the_shipped_tasks_pass_the_examples_of_their_prompts() -> None:
    assert len(task_ids("shipped")) == 6
    for name in task_ids("shipped"):
        task = load_task("shipped", name)
        assert task.visible
        assert len(task.base_inputs) + len(task.plus_inputs) >= 9
        assert passes_its_examples("shipped", name)


def test_the_benchmarks_have_their_tasks_and_examples() -> None:
    require_data()
    human_eval, mbpp = task_ids("humaneval_plus"), task_ids("mbpp_plus")
    assert (len(human_eval), len(mbpp)) == (164, 378)
    assert sum(bool(load_task("humaneval_plus", name).visible) for name in human_eval) == 140
    assert all(len(load_task("mbpp_plus", name).visible) == 1 for name in mbpp)
    # Four prompts of HumanEval show examples that their own solutions contradict.
    wrong = [name for name in human_eval if not passes_its_examples("humaneval_plus", name)]
    assert wrong == ["HumanEval/47", "HumanEval/116", "HumanEval/130", "HumanEval/148"]
    assert all(passes_its_examples("mbpp_plus", name) for name in mbpp)


def test_mbpp_inputs_get_their_types_back() -> None:
    require_data()
    assert load_task("mbpp_plus", "Mbpp/2").base_inputs[0] == ((3, 4, 5, 6), (5, 7, 4, 10))
    assert load_task("mbpp_plus", "Mbpp/124").base_inputs[0] == (0.0, 1j)
    assert load_task("mbpp_plus", "Mbpp/106").base_inputs[0] == ([5, 6, 7], (9, 10))
    assert load_task("mbpp_plus", "Mbpp/793").plus_inputs == ()


@pytest.mark.parametrize(
    ("said", "expression", "expected"),
    [
        ("    >>> f([1, 2])\n    [3]", "f([1, 2])", "[3]"),
        ("    f(1, 2) ==> True", "f(1, 2)", "True"),
        ('    * f("a)b") => "x"', 'f("a)b")', "'x'"),
        ("    f([]) ➞ None ", "f([])", "None"),
        ("    f(4) should return false.", "f(4)", "False"),
        ("    f(15)   # returns 'db'", "f(15)", "'db'"),
        ("    f(5) returns [1, 5] # because", "f(5)", "[1, 5]"),
        ("    f(2) == 1 + 9 + 0 + 0 = 10", "f(2)", "10"),
    ],
)
def test_examples_are_found_in_many_spellings(said: str, expression: str, expected: str) -> None:
    assert visible_tests(f'def f(x):\n    """Do it.\n{said}\n    """\n', "f") == (
        VisibleTest(expression, expected),
    )


def test_what_is_no_literal_is_no_example() -> None:
    assert visible_tests('def f(x):\n    """f(a) => True, and f(n - 1) => f(n)"""\n', "f") == ()
    assert visible_tests(
        '"""Do it.\nassert set(f((1, 2))) == {1}\nassert not f(3)\n"""\n', "f"
    ) == (
        VisibleTest("set(f((1, 2)))", "{1}"),
        VisibleTest("bool(not f(3))", "True"),
    )


def test_missing_data_and_unknown_tasks_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"humaneval/HumanEvalPlus\.jsonl\.gz is not there"):
        task_ids("humaneval_plus", str(tmp_path))
    with pytest.raises(UsageError, match="R2V/99"):
        load_task("shipped", "R2V/99")
    with pytest.raises(UsageError, match="Codeforces/1"):
        dataset_of("Codeforces/1")


ANYWHERE = SandboxConfig(allow_weaker=True)  # these tests run no program


def config(source: str, **sizes: int) -> EnvConfig:
    return EnvConfig(
        kind="humaneval_plus",
        code=CodeConfig(source=source),
        splits=SplitSizes(**sizes),
        max_steps=6,
    )


def test_where_programs_must_not_run_there_are_no_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    means.cache_clear()
    try:
        with pytest.raises(UsageError, match=r"sandbox\.allow_weaker"):
            make_tasks(config("shipped", train=1, test=1), 0, 1, lambda done, total: None)
    finally:
        means.cache_clear()


def test_splits_share_no_task_and_test_is_human_eval_only() -> None:
    require_data()
    tasks = make_tasks(
        config("evalplus", train=200, validation=90, calibration=88, test=164),
        0,
        1,
        lambda done, total: None,
        ANYWHERE,
    )
    assert len({task.id for task in tasks}) == len(tasks) == 378 + 164
    for task in tasks:
        assert task.id.startswith("HumanEval/" if task.split == "test" else "Mbpp/")
        assert task.env == ("r2v/HumanEvalPlus-v0" if task.split == "test" else "r2v/MBPPPlus-v0")


def test_shipped_tasks_are_shared_out_and_carry_the_sandbox() -> None:
    tasks = make_tasks(
        config("shipped", train=2, validation=1, calibration=1, test=2),
        0,
        1,
        lambda done, total: None,
        ANYWHERE,
    )
    assert sorted(task.id for task in tasks) == [f"R2V/{i}" for i in range(6)]
    assert SandboxConfig.model_validate_json(str(dict(tasks[0].env_kwargs)["sandbox"])) == ANYWHERE
    assert dict(tasks[0].env_kwargs)["max_steps"] == 6


def test_asking_for_more_tasks_than_there_are_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"env\.splits.*ask for 9 tasks where shipped has 6"):
        make_tasks(config("shipped", train=5, test=4), 0, 1, lambda done, total: None, ANYWHERE)


def row(number: int, **changes: Any) -> dict[str, Any]:
    """A task as EvalPlus writes it."""
    name = f"inc{number}"
    return {
        "task_id": f"HumanEval/{number}",
        "prompt": f'def {name}(x):\n    """Add one.\n    >>> {name}(1)\n    2\n    """\n',
        "entry_point": name,
        "canonical_solution": "    return x + 1\n",
        "base_input": [[1]],
        "plus_input": [],
        "atol": 0,
        "contract": "",
    } | changes


def lines(*rows: dict[str, Any]) -> bytes:
    return "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in rows).encode()


def humaneval(folder: Path, data: bytes) -> str:
    """A data directory with this file as HumanEval+."""
    path = folder / "humaneval" / "HumanEvalPlus.jsonl.gz"
    path.parent.mkdir()
    path.write_bytes(data)
    return str(folder)


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x1e"])
@pytest.mark.parametrize("pack", [gzip.compress, bytes], ids=["gzip", "plain"])
def test_a_line_ends_at_a_line_feed_alone(tmp_path: Path, separator: str, pack: Any) -> None:
    # JSON writes control characters escaped; all other separators may stand in a string as they
    # are.
    data = lines(row(0, contract=f"a{separator}b"), row(1)).replace(b"\n", b"\r\n")
    folder = humaneval(tmp_path, pack(data))
    assert task_ids("humaneval_plus", folder) == ["HumanEval/0", "HumanEval/1"]
    assert load_task("humaneval_plus", "HumanEval/0", folder).contract == f"a{separator}b"


WHOLE = gzip.compress(lines(*map(row, range(50))))


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 10\n",
            ["git-lfs pointer", "git lfs pull"],
        ),
        (b"\n <html>Sign in</html>", ["web page"]),
        (WHOLE[:60], ["cut or damaged"]),
        (WHOLE[:-20] + bytes(20), ["cut or damaged"]),
        (b"", ["empty"]),
        (gzip.compress(b""), ["empty"]),
        (b"PK\x03\x04", ["zip archive"]),
        (gzip.compress(json.dumps([row(0)]).encode()), ["JSON list"]),
        (lines(row(0), row(1))[:-40], ["line 2", "not JSON"]),
        (lines(row(0)) + b"{" * 5000 + b"\n", ["line 2", "not JSON"]),
        (lines(row(0)).replace(b"[[1]]", b"[[" + b"1" * 5000 + b"]]"), ["line 1", "integer"]),
        (lines(row(0)) + b"7\n", ["line 2", "no JSON object"]),
        (lines(row(0), {"task_id": "HumanEval/1"}), ["line 2", "no field prompt"]),
        (lines(row(0, atol="x")), ["line 1", "atol", '"x"']),
        (lines(row(0, base_input=[1])), ["line 1", "base_input", "list of lists"]),
        (lines(row(0, plus_input={"a": 1})), ["line 1", "plus_input"]),
        (lines(row(0, task_id="Mbpp/3")), ["line 1", "Mbpp/3", "humaneval_plus"]),
        (lines(row(0), row(1), row(0)), ["HumanEval/0", "lines 1 and 3"]),
        (
            lines(row(0))
            + json.dumps(row(1, contract="caf\u00e9"), ensure_ascii=False).encode("latin-1"),
            ["line 2", "UTF-8"],
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_damaged_data_file_is_named_in_one_line(
    tmp_path: Path, data: bytes, parts: list[str]
) -> None:
    folder = humaneval(tmp_path, data)
    with pytest.raises(UsageError) as caught:
        task_ids("humaneval_plus", folder)
    message = str(caught.value)
    assert message.startswith(f"{folder}/humaneval/HumanEvalPlus.jsonl.gz")
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_arguments_that_a_task_cannot_have_are_named(tmp_path: Path) -> None:
    path = tmp_path / "mbppplus" / "MbppPlus.jsonl.gz"
    path.parent.mkdir()
    path.write_bytes(lines(row(0, task_id="Mbpp/124", base_input=[["x", "y"]])))
    with pytest.raises(UsageError, match="task Mbpp/124: base_input does not have the form"):
        load_task("mbpp_plus", "Mbpp/124", str(tmp_path))


def test_equal_data_has_one_identity_wherever_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def at(folder: str) -> dict[str, str]:
        return identity(EnvConfig(kind="humaneval_plus", code=CodeConfig(data_dir=folder)))

    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder, numbers in zip(folders, ((0, 1), (0, 1), (0, 2)), strict=True):
        humaneval_dir = Path(humaneval(make(folder), lines(*map(row, numbers))))
        (humaneval_dir / "mbppplus").mkdir()
        (humaneval_dir / "mbppplus" / "MbppPlus.jsonl.gz").write_bytes(
            lines(row(0, task_id="Mbpp/3"))
        )
    first, equal, other = (at(str(folder)) for folder in folders)
    assert first == equal
    assert first["humaneval_plus"] != other["humaneval_plus"]
    monkeypatch.setenv("R2V_DATA_DIR", str(folders[1]))
    assert at("") == first


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder
