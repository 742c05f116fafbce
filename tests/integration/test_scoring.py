"""Scores that an actor, or Ray Data, computes are those that this process computes."""

from pathlib import Path

import pyarrow as pa
import pytest
import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer

from learners.common import scoring
from learners.common.scoring import OnCluster, Scorer
from learners.verifier.train import PublishedVerifier
from r2v_dist.config.deepspeed import DeepSpeedConfig
from r2v_dist.errors import RuntimeFailure
from tests.integration.test_verifier_learner import values_of

TWO = OnCluster("verifier", DeepSpeedConfig(ranks=2, threads_per_rank=1))


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def verifier(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Path:
    """The tiny model with a random head, in a type of its own."""
    folder = tmp_path_factory.mktemp("verifier")
    torch.manual_seed(0)
    model = AutoModelForTokenClassification.from_pretrained(
        tiny_model, num_labels=1, dtype=request.param
    )
    model.score.weight.data.normal_(std=0.03)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("few", [4096, 8], ids=["actor", "ray data"])
def test_it_does_not_matter_where_a_model_scores(
    few: int, ray_session: None, verifier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In parts that cut states in two. Of bfloat16 the last bits depend on a row's neighbours."""
    monkeypatch.setattr(scoring, "FEW", few)
    monkeypatch.setattr(scoring, "_BATCH", 7)
    load = PublishedVerifier(verifier, "")
    table = values_of(0, 12)
    here = load()(table)
    assert here.std() > 0.01
    closely = 1e-5 if "float32" in (verifier / "config.json").read_text() else 0.03
    assert TWO("scores", load, table) == pytest.approx(here, abs=closely)


def test_an_actor_keeps_the_order_of_rows_and_says_why_it_fails(ray_session: None) -> None:
    def numbers() -> Scorer:
        return lambda table: table["n"].to_numpy().astype(float)

    def refusing() -> Scorer:
        raise RuntimeFailure("no such checkpoint")

    table = pa.table({"n": list(range(600))})
    assert TWO("numbers", numbers, table).tolist() == list(range(600))
    assert TWO("numbers", numbers, table.slice(0, 0)).tolist() == []
    with pytest.raises(RuntimeFailure, match=r"^no such checkpoint$"):
        TWO("numbers", refusing, table)
