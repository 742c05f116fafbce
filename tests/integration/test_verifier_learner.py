"""The verifier for real: learned under Ray Train and DeepSpeed ZeRO, calibrated, and served by its
actor.
"""

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from learners.verifier.train import PublishedVerifier, VerifierJob, learn_verifier, measure
from r2v_dist.chat import ChatFormat, Turn, opening_message
from r2v_dist.config.deepspeed import DeepSpeedConfig
from r2v_dist.config.learners import LoraConfig
from r2v_dist.config.verifier import VerifierConfig, VerifierTrainingConfig
from r2v_dist.labels import branch_values
from r2v_dist.labels.branch_values import BranchValue
from r2v_dist.language_model import Candidate
from r2v_dist.verifier.metrics import VerifierMetrics

ACTIONS = (("take apple", (30, 31)), ("go east", (40, 41, 42)), ("drop apple", (50,)))


@pytest.fixture(scope="module")
def model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen3 with the tiny model's tokenizer."""
    folder = tmp_path_factory.mktemp("random")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "head_dim": 16,
    }
    config = Qwen3Config(
        vocab_size=2048,
        num_key_value_heads=1,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
        **shape,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def values_of(first: int, count: int) -> pa.Table:
    """States in which the first action mostly succeeds and the others do not."""
    rng = np.random.default_rng(first)
    rows = []
    for i in range(first, first + count):
        history = (
            Turn(
                opening_message("take the apple", f"You see a stand{i}."), "look", "slm", (7, 8 + i)
            ),
        )
        state = {
            "key": f"{i}",
            "task": f"g{i}",
            "split": "train",
            "z": i % 3,
            "prefix": i,
            "t": 1,
            "history": history,
            "user": "Nothing." * (i % 4),
        }
        for k, (text, ids) in enumerate(ACTIONS[: 2 + i % 2]):
            won = int(rng.binomial(4, 0.9 if k == 0 else 0.2))
            common = {
                "n": 4,
                "successes": won,
                "state_hash": i,
                "policy": "bc",
                "candidate_index": k,
            }
            rows.append(
                BranchValue(candidate=text, candidate_ids=ids, source="slm", **state, **common)
            )
    return branch_values.to_table(rows)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("values")
    branch_values.save(folder / "train.arrow", values_of(0, 32))
    branch_values.save(folder / "validation.arrow", values_of(100, 16))
    return folder / "train.arrow", folder / "validation.arrow"


def learn(
    files: tuple[Path, Path], model: Path, folder: Path, **changes: Any
) -> tuple[list[dict[str, float]], VerifierMetrics]:
    settings: dict[str, Any] = {
        "learning_rate": 3e-3,
        "epochs": 5,
        "batch_size": 8,
        "micro_batch_size": 4,
        "max_length": 256,
        **changes,
    }
    values, validation = files
    job = VerifierJob(
        values=values,
        validation=validation,
        model=str(model),
        system_prompt="",
        output=folder / "model",
        stage=folder / "stage",
        seed=0,
        config=VerifierTrainingConfig(**settings),
    )
    metrics = learn_verifier(job)
    rows = [
        json.loads(line) for line in (folder / "stage" / "metrics.jsonl").read_text().splitlines()
    ]
    assert all(row.pop("seconds") > 0 for row in rows)
    return rows, metrics


@pytest.fixture(scope="module")
def one_rank(
    ray_session: None,
    files: tuple[Path, Path],
    model: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Any, Any, Path]:
    folder = tmp_path_factory.mktemp("one")
    rows, metrics = learn(
        files, model, folder, deepspeed=DeepSpeedConfig(zero_stage=0, threads_per_rank=1)
    )
    return rows, metrics, folder / "model"


def test_it_learns_which_candidate_succeeds(
    one_rank: tuple[Any, VerifierMetrics, Path], files: tuple[Path, Path]
) -> None:
    rows, metrics, path = one_rank
    assert rows[-1]["loss"] == pytest.approx(
        rows[-1]["loss/bce"] + 0.5 * rows[-1]["loss/pairwise"], abs=1e-4
    )
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"]
    assert metrics.auroc > 0.75
    assert metrics.pairwise > 0.8
    validation = branch_values.load(files[1])
    calibrated = measure(PublishedVerifier(path, "")()(validation), validation)
    assert calibrated.brier <= metrics.brier
    assert calibrated.pairwise == metrics.pairwise  # a calibration never turns an order round


def test_the_checkpoint_is_plain(one_rank: tuple[Any, Any, Path], files: tuple[Path, Path]) -> None:
    from r2v_dist.router.calibration import Isotonic

    _, _, path = one_rank
    assert {p.suffix for p in path.iterdir()} <= {".json", ".safetensors", ".jinja"}
    plain = AutoModelForTokenClassification.from_pretrained(path, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(path)
    chat, calibrate = (
        ChatFormat(tokenizer, "slm"),
        Isotonic.from_json(json.loads((path / "verifier.json").read_text())["calibration"]),
    )
    table = branch_values.load(files[1])
    for row, score in zip(
        branch_values.rows_of(table), PublishedVerifier(path, "")()(table), strict=True
    ):
        ids = chat.prompt(row.history, row.user) + chat.action_ids(row.turn) + chat.end_of_turn()
        with torch.no_grad():
            v = torch.sigmoid(plain(torch.tensor([ids])).logits[0, -1, 0]).item()
        assert score == pytest.approx(float(calibrate(np.array([v]))[0]), abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_two_ranks_give_the_losses_of_one(
    stage: Any,
    one_rank: tuple[Any, Any, Path],
    files: tuple[Path, Path],
    model: Path,
    tmp_path: Path,
) -> None:
    rows, metrics = learn(
        files,
        model,
        tmp_path,
        deepspeed=DeepSpeedConfig(ranks=2, zero_stage=stage, threads_per_rank=1),
    )
    for ours, expected in zip(rows, one_rank[0], strict=True):
        assert ours == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert metrics.brier == pytest.approx(one_rank[1].brier, abs=1e-3)


@pytest.mark.slow
def test_an_adapter_is_merged(
    ray_session: None, files: tuple[Path, Path], model: Path, tmp_path: Path
) -> None:
    rows, metrics = learn(
        files,
        model,
        tmp_path,
        lora=LoraConfig(r=4, alpha=8, dropout=0.0),
        deepspeed=DeepSpeedConfig(threads_per_rank=1),
    )
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert metrics.pairwise > 0.7
    assert not list((tmp_path / "model").glob("adapter*"))


def test_the_actor_gives_the_same_scores_whoever_asks_with_whom(
    ray_session: None, one_rank: tuple[Any, Any, Path], files: tuple[Path, Path]
) -> None:
    import ray

    from actors.verifier.client import ScorerHandle, TrainedVerifier
    from actors.verifier.server import start_verifier

    _, _, path = one_rank
    actors = start_verifier(str(path), "v1", VerifierConfig(max_tokens=256, replicas=2))
    assert ray.get([actor.ready.remote() for actor in actors], timeout=120) == ["v1", "v1"]
    tokenizer = AutoTokenizer.from_pretrained(path)
    states = branch_values.states_of(branch_values.load(files[1]))

    async def score_all() -> list[tuple[float, ...]]:
        calls = [ScorerHandle(actor) for actor in actors]
        clients = [TrainedVerifier(calls, tokenizer, "", 60.0) for _ in range(3)]
        asked = []
        for i, rows in enumerate(states):
            candidates = [Candidate(row.candidate, row.candidate_ids) for row in rows]
            asked.append(clients[i % 3].score(rows[0].history, rows[0].user, candidates))
        return list(await asyncio.gather(*asked))

    found = [score for scores in asyncio.run(score_all()) for score in scores]
    table = branch_values.to_table([row for rows in states for row in rows])
    # Reading on from what is kept, or afresh, differs by the rounding of float32.
    assert found == pytest.approx(PublishedVerifier(path, "")()(table).tolist(), abs=1e-4)
    for actor in actors:
        ray.kill(actor)
