"""A configuration names a model of the catalogue, and gets its folder or the command to run."""

import json
from pathlib import Path

import pytest

from cluster.architectures import shape_of
from r2v_dist.cli.main import main
from r2v_dist.config.run import load_config
from r2v_dist.errors import UsageError
from r2v_dist.pipeline.preflight import check
from r2v_dist.pipeline.resource_plan import resource_plan
from r2v_dist.pretrained.catalogue import catalogue
from r2v_dist.pretrained.places import hub_folder, model_path, packages_folder
from tests.runs import ROOT

NAME = "smollm2-135m-instruct"
MISSING = f"not fetched yet; run `r2v models fetch {NAME}`"


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("key", ["slm.model", "teacher.model", "verifier.model"])
def test_a_model_that_is_not_fetched_is_one_line_with_the_command(key: str, tmp_path: Path) -> None:
    overrides = [f"{key}={NAME}", f"run_dir={tmp_path / 'run'}"]
    if key == "teacher.model":
        overrides.append("teacher.backend=vllm")
    config = load_config(ROOT / "configs" / "textworld_demo.yaml", overrides)
    with pytest.raises(UsageError, match=f"^{key} = {NAME}: {MISSING}$"):
        check(config)
    assert f"# {key} = {NAME}: {MISSING}" in resource_plan(config).splitlines()


def test_the_folder_of_the_hub_goes_before_that_of_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = catalogue()[NAME]
    assert model.packages is not None
    for folder in (packages_folder(NAME, model.packages), hub_folder(NAME, model)):
        folder.mkdir(parents=True)
        assert model_path(NAME, "slm.model") == folder
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAME).mkdir()
    assert model_path(NAME, "slm.model") == Path(NAME)


def test_what_is_in_no_catalogue_stays_as_it_is() -> None:
    for text in ("scratch", "Qwen/Qwen2.5-Coder-0.5B-Instruct", "models/mine"):
        assert model_path(text, "slm.model") == Path(text)


def test_where_and_list_know_what_is_fetched(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["models", "where", NAME])
    assert MISSING in capsys.readouterr().err
    folder = hub_folder(NAME, catalogue()[NAME])
    folder.mkdir(parents=True)
    main(["models", "where", NAME])
    assert capsys.readouterr().out == f"{folder}\n"
    main(["models", "list", "--json"])
    folders = {row["name"]: row["folder"] for row in json.loads(capsys.readouterr().out)}
    assert folders == dict.fromkeys(catalogue()) | {NAME: str(folder)}


def test_a_name_that_does_not_exist_is_corrected(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["fetch", "smollm2-135m"], ["where", "smollm2"]):
        with pytest.raises(SystemExit, match=r"^2$"):
            main(["models", *arguments])
        assert f"did you mean {NAME}?" in capsys.readouterr().err


@pytest.mark.parametrize("name", catalogue())
def test_the_memory_plan_knows_every_model(name: str) -> None:
    shape = shape_of(name)
    assert shape is not None
    assert shape.parameters == catalogue()[name].parameters
