"""What travels with a submitted job, and what is refused."""

import io
import zipfile
from pathlib import Path

import pytest

from cluster.package import CONFIG_FILE, MOST_BYTES, models_of, pack
from r2v_dist.config.run import load_config
from r2v_dist.errors import UsageError
from r2v_dist.seeding import rng_for
from tests.runs import ROOT


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with what travels, and with all that does not."""
    for name in (
        "r2v_dist/models/kept.py",
        "envs/data/kept.jsonl",
        ".git/config",
        ".env",
        ".venv/bin/python",
        "r2v_dist/__pycache__/kept.pyc",
        "r2v_dist.egg-info/SOURCES.txt",
        "runs/demo/config.yaml",
        "tests/test_it.py",
        "models/tiny/model.safetensors",
        "models/other/model.safetensors",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path


def names(data: bytes) -> set[str]:
    return set(zipfile.ZipFile(io.BytesIO(data)).namelist())


def test_code_travels_and_environments_keys_runs_and_tests_do_not(project: Path) -> None:
    travels = {"r2v_dist/models/kept.py", "envs/data/kept.jsonl", CONFIG_FILE}
    package = pack(project, "name: x")
    assert names(package.data) == travels
    assert set(package.files) == travels
    with zipfile.ZipFile(io.BytesIO(package.data)) as archive:
        assert archive.read(CONFIG_FILE) == b"name: x"


def test_only_the_models_that_the_configuration_names_travel(project: Path) -> None:
    there = names(pack(project, "", ["models/tiny", "./models/tiny"]).data)
    assert {name for name in there if "safetensors" in name} == {"models/tiny/model.safetensors"}


@pytest.mark.parametrize("pattern", ["envs", "envs/", "*.jsonl", "envs/data/*"])
def test_a_pattern_leaves_out_a_file_or_a_folder(project: Path, pattern: str) -> None:
    assert names(pack(project, "", excludes=[pattern]).data) == {
        "r2v_dist/models/kept.py",
        CONFIG_FILE,
    }


def test_equal_files_make_equal_bytes(project: Path) -> None:
    first = pack(project, "name: x").data
    (project / "envs" / "data" / "kept.jsonl").touch()
    assert pack(project, "name: x").data == first
    assert pack(project, "name: y").data != first


def test_a_package_that_is_too_large_names_its_largest_files(project: Path) -> None:
    noise = rng_for("package").randbytes(MOST_BYTES)
    (project / "weights.bin").write_bytes(noise)
    (project / "half.bin").write_bytes(noise[: MOST_BYTES // 2])
    with pytest.raises(
        UsageError, match=r"may have 5; largest: weights\.bin \(5\.0 MB\), half"
    ) as e:
        pack(project, "")
    assert "\n" not in str(e.value)
    assert "weights.bin" not in names(pack(project, "", excludes=["*.bin"]).data)


def test_a_folder_of_huge_files_is_refused_without_reading_them(project: Path) -> None:
    with (project / "disk.img").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(UsageError, match=r"before it is compressed .* disk\.img"):
        pack(project, "")


def test_the_project_itself_fits_with_its_smallest_model() -> None:
    config = load_config(ROOT / "configs" / "textworld_demo.yaml", [])
    models = models_of(config, ROOT)
    there = names(pack(ROOT, "", models).data)
    assert models == ["models/textworld-tiny"]
    for needed in ("r2v_dist/cli/__main__.py", "envs/registry.py", "configs/textworld_demo.yaml"):
        assert needed in there
    assert "models/textworld-tiny/config.json" in there
    assert not [
        name for name in there if name.startswith(("tests/", "models/textworld-small", "."))
    ]
