"""Preference learning for real: Ray Train, TRL, DeepSpeed ZeRO, on pairs in the games'
own wording.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import load_from_disk
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from learners.common.adapters import own_adapter, whole
from learners.common.scoring import LoadScorer, Scores
from learners.dpo import pairs as preference_pairs
from learners.dpo.consistency import measure_consistency
from learners.dpo.pairs import build_pairs
from learners.dpo.train import DPOJob, PairExamples, build_dataset, learn_preferences
from r2v_dist.chat import ChatFormat, Turn, opening_message
from r2v_dist.config.deepspeed import DeepSpeedConfig
from r2v_dist.config.learners import DPOConfig, LoraConfig
from r2v_dist.errors import RuntimeFailure
from r2v_dist.labels import branch_values
from r2v_dist.labels.branch_values import BranchValue
from r2v_dist.storage.checkpoints import Checkpoint, published
from tests.adapters import make_adapter

PAIRS = 16


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


def branches() -> list[BranchValue]:
    """States of two views each, whose prompts differ in length; the policy's ids are given, the
    teacher's are not.
    """
    rows = []
    for i in range(PAIRS):
        for z in (1, 2):
            said = f"You see a stand{i}." + " The air is stale." * (3 * z * (i % 3))
            history = (Turn(opening_message("take the apple", said), "look", "slm", (7, 8 + i)),)
            state = {
                "key": f"{i}|{z}",
                "task": f"g{i}",
                "split": "train",
                "z": z,
                "prefix": i,
                "t": 1,
                "history": history,
            }
            common = {
                **state,
                "user": "Nothing happens." * z,
                "n": 4,
                "state_hash": i if i % 4 else i + z,
                "policy": "bc",
            }
            rows.append(
                BranchValue(
                    candidate="go east",
                    candidate_ids=(30, 31),
                    candidate_index=0,
                    source="slm",
                    successes=1,
                    **common,
                )
            )
            rows.append(
                BranchValue(
                    candidate="take apple",
                    candidate_ids=None,
                    candidate_index=1,
                    source="teacher",
                    successes=4,
                    **common,
                )
            )
    return [row for row in rows if row.z == 1 or row.candidate_index == 0]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pairs") / "pairs.arrow"
    table, counts = build_pairs(branch_values.to_table(branches()), 0.1)
    assert (counts.pairs, counts.with_view, counts.other_state, counts.one_action) == (
        PAIRS,
        12,
        4,
        PAIRS,
    )
    preference_pairs.save(path, table)
    return path


def config_of(**changes: Any) -> DPOConfig:
    settings: dict[str, Any] = {
        "learning_rate": 1e-3,
        "epochs": 5,
        "batch_size": 8,
        "micro_batch_size": 4,
        "max_length": 256,
        **changes,
    }
    return DPOConfig(**settings)


def learn(
    pairs: Path, model: Path, folder: Path, start: Checkpoint | None = None, **changes: Any
) -> tuple[list[dict[str, float]], PairExamples]:
    job = DPOJob(
        pairs=pairs,
        model=str(model),
        system_prompt="",
        output=folder / "model",
        stage=folder / "stage",
        seed=0,
        config=config_of(**changes),
        start=start,
    )
    counts = learn_preferences(job)
    rows = [
        json.loads(line) for line in (folder / "stage" / "metrics.jsonl").read_text().splitlines()
    ]
    assert all(row.pop("seconds") > 0 for row in rows)
    return rows, counts


def weights(path: Path) -> dict[str, torch.Tensor]:
    return dict(AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).state_dict())


@pytest.fixture(scope="module")
def one_rank(
    ray_session: None, pairs: Path, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[dict[str, float]], Path]:
    folder = tmp_path_factory.mktemp("one")
    rows, counts = learn(
        pairs, model, folder, deepspeed=DeepSpeedConfig(zero_stage=0, threads_per_rank=1)
    )
    assert counts == PairExamples(PAIRS, 12, 0, 0)
    return rows, folder / "model"


def test_margins_grow_and_every_term_is_logged(
    one_rank: tuple[list[dict[str, float]], Path],
) -> None:
    rows, path = one_rank
    assert [row["step"] for row in rows] == [5, 10]
    assert rows[1]["rewards/margins"] > rows[0]["rewards/margins"] > 0
    assert rows[1]["rewards/accuracies"] == 1.0
    for row in rows:
        total = (
            row["loss/dpo"]
            + 0.1 * row["loss/consistency"] * row["view_share"] / 0.75
            + 0.1 * row["loss/sft"]
        )
        assert row["loss"] == pytest.approx(total, abs=1e-5)
    assert {p.suffix for p in path.iterdir()} <= {".json", ".safetensors", ".jinja"}


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_two_ranks_give_the_losses_of_one(
    stage: Any,
    one_rank: tuple[list[dict[str, float]], Path],
    pairs: Path,
    model: Path,
    tmp_path: Path,
) -> None:
    rows, _ = learn(
        pairs,
        model,
        tmp_path,
        deepspeed=DeepSpeedConfig(ranks=2, zero_stage=stage, threads_per_rank=1),
    )
    for ours, expected in zip(rows, one_rank[0], strict=True):
        assert ours == pytest.approx(expected, rel=1e-4, abs=1e-5)
    published, expected_weights = weights(tmp_path / "model"), weights(one_rank[1])
    for name, weight in expected_weights.items():
        assert torch.allclose(published[name], weight, atol=2e-4), name


@pytest.mark.slow
def test_an_adapter_is_learned_on_top_of_the_one_that_training_starts_from(
    ray_session: None, pairs: Path, model: Path, tmp_path: Path
) -> None:
    make_adapter(model, tmp_path / "bc", seed=0)
    own_adapter(tmp_path / "bc", str(model))
    start = published(tmp_path / "bc", "bc")
    merged = Path(whole(start, "float32"))
    rows, _ = learn(
        pairs,
        merged,
        tmp_path,
        start,
        lora=LoraConfig(r=4, alpha=8),
        deepspeed=DeepSpeedConfig(threads_per_rank=1),
    )
    assert rows[0]["rewards/margins"] > 0
    after = published(tmp_path / "model", "dpo")
    assert after.path == str(model.resolve())
    before, learned = weights(merged), weights(Path(whole(after, "float32")))
    moved = {name for name in before if (before[name] - learned[name]).abs().max() > 1e-6}
    assert moved
    assert all(name.endswith("_proj.weight") for name in moved)
    views = [
        measure_consistency(path, pairs, "", config_of())
        for path in (after.adapter, whole(after, "float32"))
    ]
    assert views[0].divergence == pytest.approx(views[1].divergence, rel=1e-3)


def test_without_its_own_terms_the_loss_is_trls(pairs: Path, model: Path, tmp_path: Path) -> None:
    from trl import DPOConfig as TrlArguments
    from trl import DPOTrainer

    from learners.dpo.collator import PairCollator
    from learners.dpo.trainer import PreferenceTrainer

    dataset, _ = build_dataset(
        preference_pairs.load(pairs), ChatFormat(AutoTokenizer.from_pretrained(model), "slm"), 256
    )
    dataset.save_to_disk(str(tmp_path / "examples"))
    tokenizer = AutoTokenizer.from_pretrained(model)

    class Stock(DPOTrainer):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

    def loss_of(kind: Any, **more: Any) -> tuple[float, dict[str, torch.Tensor]]:
        policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        arguments = TrlArguments(
            str(tmp_path / "trl"), use_cpu=True, bf16=False, beta=0.1, max_length=None,
            remove_unused_columns=False, report_to=[], gradient_checkpointing=False,
            precompute_ref_log_probs=False,
        )  # fmt: skip
        trainer = kind(
            model=policy, args=arguments, train_dataset=dataset, processing_class=tokenizer, **more
        )
        examples = [
            dict(row) | {"ref_chosen_logps": -20.0 - i, "ref_rejected_logps": -18.0}
            for i, row in enumerate(dataset)
        ]
        trainer.precompute_ref_logps = True
        loss = trainer.compute_loss(trainer.model, trainer.data_collator(examples))
        loss.backward()
        return loss.item(), {name: p.grad for name, p in trainer.model.named_parameters()}

    stock, stock_gradients = loss_of(Stock)
    for share in (True, False):
        collator = PairCollator(tokenizer.pad_token_id, views=False, share_prompt=share)
        ours, gradients = loss_of(
            PreferenceTrainer,
            data_collator=collator,
            loss=config_of(beta_c=0, beta_s=0),
            view_share=0.75,
        )
        assert ours == pytest.approx(stock, abs=1e-6)
        for name, gradient in stock_gradients.items():
            assert torch.allclose(gradients[name], gradient, atol=1e-6), name


def plain_log_probability(policy: Any, prompt: list[int], answer: list[int]) -> float:
    with torch.no_grad():
        logits = policy(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    return float(torch.log_softmax(logits, 1).gather(1, torch.tensor(answer)[:, None]).sum())


def test_the_reference_is_the_starting_policy(pairs: Path, model: Path, tmp_path: Path) -> None:
    from trl import DPOConfig as TrlArguments

    from learners.dpo.collator import PairCollator
    from learners.dpo.trainer import PreferenceTrainer

    tokenizer, policy = (
        AutoTokenizer.from_pretrained(model),
        AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
    )
    dataset, _ = build_dataset(preference_pairs.load(pairs), ChatFormat(tokenizer, "slm"), 256)
    dataset.save_to_disk(str(tmp_path / "examples"))
    arguments = TrlArguments(
        str(tmp_path / "trl"),
        use_cpu=True,
        bf16=False,
        max_length=None,
        remove_unused_columns=False,
        precompute_ref_log_probs=True,
    )
    trainer = PreferenceTrainer(
        model=policy,
        args=arguments,
        train_dataset=load_from_disk(str(tmp_path / "examples")),
        data_collator=PairCollator(tokenizer.pad_token_id, views=True, share_prompt=True),
        processing_class=tokenizer,
        loss=config_of(),
        view_share=0.75,
    )
    assert len(trainer.train_dataset) == PAIRS
    for row in trainer.train_dataset:
        for answer in ("chosen", "rejected"):
            expected = plain_log_probability(policy, row["prompt_ids"], row[f"{answer}_ids"])
            assert row[f"ref_{answer}_logps"] == pytest.approx(expected, abs=1e-4)


def test_consistency_is_the_plain_mean_over_views(pairs: Path, model: Path) -> None:

    tokenizer, policy = (
        AutoTokenizer.from_pretrained(model),
        AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
    )
    dataset, _ = build_dataset(preference_pairs.load(pairs), ChatFormat(tokenizer, "slm"), 256)
    expected = []
    for row in dataset:
        if not row["view_prompt_ids"]:
            continue
        answer, spread = row["chosen_ids"], []
        for prompt in (row["prompt_ids"], row["view_prompt_ids"]):
            with torch.no_grad():
                spread.append(
                    torch.softmax(
                        policy(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1] / 2,
                        1,
                    )
                )
        p, q = spread
        m = (p + q) / 2
        expected.append(
            float((((p * (p / m).log()).sum(1) + (q * (q / m).log()).sum(1)) / 2).mean())
        )
    found = measure_consistency(str(model), pairs, "", config_of())
    assert found.pairs == len(expected) == 12
    assert found.divergence == pytest.approx(sum(expected) / 12, rel=1e-3)
    assert found.divergence > 0

    def in_parts(what: str, load: LoadScorer, table: pa.Table) -> Scores:
        scorer = load()
        return np.concatenate([scorer(table.slice(start, 5)) for start in range(0, len(table), 5)])

    apart = measure_consistency(str(model), pairs, "", config_of(), score=in_parts)
    assert apart.pairs == 12
    assert apart.divergence == pytest.approx(found.divergence, abs=1e-6)


def test_a_pair_that_does_not_fit_is_left_out_and_counted(pairs: Path, model: Path) -> None:
    chat = ChatFormat(AutoTokenizer.from_pretrained(model), "slm")
    whole, _ = build_dataset(preference_pairs.load(pairs), chat, 4096)
    longest = max(
        len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"]))
        for row in whole
    )
    kept, counts = build_dataset(preference_pairs.load(pairs), chat, longest - 1)
    assert counts.pairs_too_long == PAIRS - len(kept) > 0
    assert counts.views_too_long > 0
    with pytest.raises(RuntimeFailure, match="16 of them longer than 8 tokens"):
        build_dataset(preference_pairs.load(pairs), chat, 8)
