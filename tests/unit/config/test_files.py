"""Configuration files: what their YAML means, and what is no configuration."""

from pathlib import Path

import pytest

from r2v_dist.config.run import load_config
from r2v_dist.config.simulated import load_simulated
from r2v_dist.errors import UsageError
from r2v_dist.storage.run_dir import RunDir
from tests.runs import DEMO


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"a: [1", ["not YAML"]),
        ("name: caf\u00e9".encode("latin-1"), ["line 1", "not UTF-8", "0xe9"]),
        ("name: tiny".encode("utf-16"), ["UTF-16"]),
        (b"x: " + b"[" * 3000 + b"]" * 3000, ["nested too deeply"]),
        (b"seed: " + b"9" * 5000, ["seed", "line 1", "5000 digits"]),
        (b"seed: 010", ["seed", "010", "begins with 0"]),
        (b"a: {b: [{c: 1,\n c: 2}]}", ["a.b.0.c", "lines 1 and 2"]),
        (b"seed: 0\nname: x\nseed: 7", ["key seed", "lines 1 and 3"]),
        (b"a: &a {b: *a}", ["a.b", "holds itself"]),
        (b"seed: !!int x", ["not YAML"]),
        (b"- 1", ["mapping"]),
        (b"", ["mapping"]),
        (b"#" * (1 << 21), ["larger"]),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, list) else "",
)
def test_a_file_that_is_no_configuration_is_one_line(
    tmp_path: Path, content: bytes, parts: list[str]
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    for read in (load_config, load_simulated):
        with pytest.raises(UsageError) as caught:
            read(path, [])
        message = str(caught.value)
        assert message.startswith(str(path))
        assert "\n" not in message
        assert len(message) < 600
        for part in parts:
            assert part in message


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such config"):
        load_config(tmp_path / "absent.yaml", [])
    with pytest.raises(UsageError, match="a directory"):
        load_config(tmp_path, [])
    with pytest.raises(UsageError, match="cannot be read"):
        load_config(Path("x" * 300), [])


def test_words_of_old_yaml_are_text_and_merged_keys_are_no_duplicates(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    anchored = (
        DEMO.read_text().replace("name: textworld_demo", "name: off").replace("bc: {", "bc: &bc {")
    )
    path.write_text(anchored.replace("dpo: {", "dpo: {<<: *bc, ") + "training_seeds: 1e0\n")
    config = load_config(path, ["bc.bf16=on", "bc.learning_rate=1e-3"])
    assert (config.name, config.bc.bf16, config.bc.learning_rate) == ("off", True, 1e-3)
    assert config.dpo is not None
    assert (config.dpo.micro_batch_size, config.dpo.batch_size) == (8, 16)


@pytest.mark.parametrize("text", ["1.10", "1e3", "0o10", "12", "on", "1:30", ".5"])
def test_a_text_that_looks_like_a_number_stays_as_it_was_written(tmp_path: Path, text: str) -> None:
    config = load_config(DEMO, [f"name={text}", f"slm.model='{text}'"])
    assert (config.name, config.slm.model) == (text, text)
    RunDir(tmp_path).write_config(config)
    assert load_config(tmp_path / "config.yaml", []) == config
