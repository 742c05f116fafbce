"""A configuration that extends another holds what differs; the rest is as if it stood there."""

from pathlib import Path

import pytest
import yaml

from r2v_dist.cli.main import main
from r2v_dist.config.run import load_config
from r2v_dist.config.simulated import load_simulated
from r2v_dist.config.yaml_file import read_mapping
from r2v_dist.errors import UsageError
from tests.runs import ROOT

CONFIGS = ROOT / "configs"
DEMO = CONFIGS / "textworld_demo.yaml"


def files(folder: Path, **texts: str) -> Path:
    """The first of the files, all written to one folder."""
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder / f"{next(iter(texts))}.yaml"


def test_mappings_merge_and_lists_and_values_replace(tmp_path: Path) -> None:
    path = files(
        tmp_path,
        top="{extends: middle.yaml, a: {y: [9], z: null}, d: {e: 1}}",
        middle="{extends: base.yaml, a: {x: 2}, c: 3}",
        base="{a: {x: 1, y: [1, 2], z: {deep: 1}, w: 4}, b: 5, d: 6}",
    )
    assert read_mapping(path, ["a.x=7"]) == {
        "a": {"x": 7, "y": [9], "z": None, "w": 4},
        "b": 5,
        "c": 3,
        "d": {"e": 1},
    }


def test_the_base_is_found_from_the_folder_of_the_file_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "shared").mkdir()
    path = files(tmp_path / "mine", top="extends: ../shared/middle.yaml")
    files(tmp_path / "shared", middle="extends: base.yaml", base="seed: 3")
    monkeypatch.chdir(tmp_path / "shared")
    assert read_mapping(path, []) == {"seed": 3}


@pytest.mark.parametrize(
    ("texts", "parts"),
    [
        ({"a": "extends: absent.yaml"}, ["a.yaml: extends = absent.yaml", "no file", "relative"]),
        ({"a": "extends: ."}, ["a.yaml: extends = .", "no file"]),
        ({"a": f"extends: {'x' * 300}"}, ["a.yaml: extends = xxx", "no file"]),
        ({"a": "extends: [b.yaml]", "b": "seed: 1"}, ["a.yaml: extends = ['b.yaml']", "write one"]),
        ({"a": "extends: 3"}, ["a.yaml: extends = 3", "write one"]),
        ({"a": "extends:"}, ["a.yaml: extends = None", "write one"]),
        ({"a": "extends: a.yaml"}, ["a.yaml: extends", "circle", "a.yaml -> a.yaml"]),
        (
            {"a": "extends: b.yaml", "b": "extends: c.yaml", "c": "extends: b.yaml"},
            ["c.yaml: extends", "circle", "a.yaml -> b.yaml -> c.yaml -> b.yaml"],
        ),
        ({"a": "extends: b.yaml", "b": "[1]"}, ["b.yaml: a run config is a mapping"]),
        ({"a": "extends: b.yaml", "b": "seed: 010"}, ["b.yaml: line 1: seed = 010"]),
    ],
)
def test_what_cannot_be_extended_is_one_line_and_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], texts: dict[str, str], parts: list[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["run", str(files(tmp_path, **texts)), "--dry-run"])
    [line] = capsys.readouterr().err.splitlines()
    for part in parts:
        assert part in line


def test_an_override_extends_nothing() -> None:
    with pytest.raises(UsageError, match=r"override 'extends=x\.yaml': only a file"):
        read_mapping(DEMO, ["extends=x.yaml"])


def test_a_run_is_shown_as_it_is_resolved_and_has_the_key_of_the_whole_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = files(tmp_path, mine=f"extends: {DEMO}\nseed: 8\nenv: {{splits: {{test: 7}}}}\n")
    assert load_config(path, []) == load_config(DEMO, ["seed=8", "env.splits.test=7"])
    main(["run", str(path), "--dry-run"])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert "extends" not in printed
    assert (printed["seed"], printed["env"]["splits"]["test"]) == (8, 7)


def test_a_simulated_run_may_extend_one(tmp_path: Path) -> None:
    simulated = CONFIGS / "simulated.yaml"
    path = files(tmp_path, mine=f"extends: {simulated}\nrouter: {{epsilon: 0.2}}\n")
    assert load_simulated(path, []) == load_simulated(simulated, ["router.epsilon=0.2"])
