"""Weights are read once, and again when they have changed."""

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from r2v_dist.errors import UsageError
from r2v_dist.storage.model_identity import checkpoint_version

AN_HOUR_AGO = 1_000_000_000


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "model"
    folder.mkdir()
    write(folder, b"weights")
    return folder


def write(folder: Path, content: bytes, changed: int = AN_HOUR_AGO) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(content)
    os.utime(path, (changed, changed))


def read_weights(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the weights' files that are opened from here on."""
    opened: list[str] = []
    real = Path.open

    def counted(path: Path, *args: Any, **kwargs: Any) -> Any:
        opened.append(path.name)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", counted)
    return opened


def test_a_version_names_the_weights(model: Path) -> None:
    first = checkpoint_version("bc", model)
    assert first == "bc-" + hashlib.blake2b(b"weights", digest_size=6).hexdigest()
    write(model, b"others!", AN_HOUR_AGO + 5)
    assert checkpoint_version("bc", model) != first
    with pytest.raises(UsageError, match="no safetensors"):
        checkpoint_version("bc", model / "absent")


def test_weights_are_read_once(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = checkpoint_version("bc", model)
    opened = read_weights(monkeypatch)
    assert checkpoint_version("other", model) == f"other-{first.removeprefix('bc-')}"
    assert "model.safetensors" not in opened


def test_weights_replaced_by_others_of_the_same_size_and_time_are_read(model: Path) -> None:
    first = checkpoint_version("bc", model)
    os.rename(model / "model.safetensors", model / "old")
    write(model, b"others!")
    assert checkpoint_version("bc", model) != first


def test_weights_that_were_only_just_written_are_read_again(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (model / "model.safetensors").write_bytes(b"new one")
    first = checkpoint_version("bc", model)
    opened = read_weights(monkeypatch)
    assert checkpoint_version("bc", model) == first
    assert "model.safetensors" in opened


def test_a_cache_that_is_damaged_or_cannot_be_written_is_none(
    model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = checkpoint_version("bc", model)
    [remembered] = (tmp_path / "cache" / "r2v" / "weights").iterdir()
    remembered.write_bytes(b"\xff")
    assert checkpoint_version("bc", model) == first
    monkeypatch.setenv("XDG_CACHE_HOME", str(remembered))
    assert checkpoint_version("bc", model) == first
