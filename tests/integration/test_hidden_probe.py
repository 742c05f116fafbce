"""The probe of hidden states on a run of a tiny model: its vectors are the model's own, they are
computed once, and what was not computed in time is gone on with.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from benchmarks import hidden_probe
from benchmarks.hidden_states import Reading, hidden_states
from r2v_dist.chat import ChatFormat, Turn, opening_message
from r2v_dist.config.run import RunConfig, load_config
from r2v_dist.episodes import Arm, Episode, EpisodeKey, Step, StopReason, next_prefix
from r2v_dist.labels.states import State, states_of
from r2v_dist.labels.table import SCHEMA, LabelTable
from r2v_dist.language_model import Answer, Candidate
from r2v_dist.storage import rollouts as rollout_store
from r2v_dist.storage.run_dir import RunDir
from tests.runs import ROOT, json_object

ACTIONS = ("go north", "take the lamp")
TASKS = 6


def episodes(chat: ChatFormat, tokenizer: Any, split: str, alone: str) -> Iterator[Episode]:
    """Two steps of the SLM alone in each task; every other task is won."""
    for task in range(TASKS):
        arm = Arm(alone, None, "slm-1", "teacher", 0)
        key = EpisodeKey("visits", "hash", f"{split}-{task}", 3, arm.id, 0)
        history: tuple[Turn, ...] = ()
        steps = []
        prefix = 0
        for observation, action in zip(("a dark room", f"room {task}"), ACTIONS, strict=True):
            user = observation if history else opening_message("find it", observation)
            ids = tuple(tokenizer.encode(action, add_special_tokens=False))
            candidate = Candidate(action, ids, (-0.5,) * len(ids))
            answer = Answer((candidate,), "slm-1", len(chat.prompt(history, user)))
            steps.append(
                Step(
                    *(observation, observation, (), "slm", action, ids, True, None, answer, 0),
                    prefix=prefix,
                    drift=False,
                    chosen_index=0,
                )
            )
            history = (*history, Turn(user, action, "slm", ids))
            prefix = next_prefix(prefix, action)
        won = task % 2 == 0
        reason = StopReason.WON if won else StopReason.LOST
        yield Episode(key, split, arm, "find it", tuple(steps), won, reason, "the end")


def labels_of(states: list[State]) -> LabelTable:
    """Each with the outcome of its own episode and nothing else."""
    columns: dict[str, list[Any]] = {name: [0] * len(states) for name in SCHEMA.names}
    for name in ("task", "split", "z", "prefix", "t", "own_success", "episode"):
        columns[name] = [getattr(state, name) for state in states]
    columns |= {"features": [list(state.features) for state in states]}
    columns |= {"source": ["slm_only"] * len(states), "differs": [None] * len(states)}
    return LabelTable.of_columns(columns)


@pytest.fixture
def run(tiny_model: Path, tmp_path: Path) -> Path:
    """The stages `visits` and `labels`, as far as the probe reads them."""
    root = tmp_path / "run"
    given = [f"slm.model={tiny_model}", f"run_dir={root}"]
    config: RunConfig = load_config(ROOT / "configs" / "humaneval_qwen_smoke.yaml", given)
    directory = RunDir(root)
    root.mkdir()
    directory.write_config(config)
    tokenizer: Any = AutoTokenizer.from_pretrained(tiny_model)
    chat = ChatFormat(tokenizer, "slm", config.slm.system_prompt)
    for index, split in enumerate(("train", "validation")):
        played = list(episodes(chat, tokenizer, split, config.slm_only_router))
        rollout_store.commit(directory.rollouts("visits"), index, played)
    rows = rollout_store.read(directory.rollouts("visits"))
    states = states_of(rows, config.env.max_steps, config.slm_only_router)
    for split in ("train", "validation"):
        own = [state for state in states if state.split == split]
        labels_of(own).save(directory.stage("labels") / f"{split}.arrow")
    return root


def test_the_probe_is_measured_on_validation_tasks(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def printed(*more: str) -> str:
        vectors = ["--vectors", str(run / "vectors"), "--resamples", "20"]
        monkeypatch.setattr(sys, "argv", ["hidden_probe", str(run), *vectors, *more])
        hidden_probe.main()
        return capsys.readouterr().out

    assert "goes on" in printed("--minutes", "0")
    found = json_object(printed().splitlines()[-1])
    assert found["train"]["states"] == 2 * TASKS
    assert found["held_out"]["labelled validation states"]["tasks"] == TASKS
    assert printed("--minutes", "0").splitlines()[-1].endswith("}")  # nothing is computed again


def test_vectors_are_the_models_own_whatever_they_are_read_with(
    tiny_model: Path, tmp_path: Path
) -> None:
    readings = [Reading("v", (5, 6, 7), (8, 9)), Reading("v", tuple(range(20, 60)), (3, 4, 5))]
    vectors = hidden_states(tiny_model, readings, tmp_path, 600.0)
    assert vectors is not None
    model: Any = AutoModel.from_pretrained(tiny_model, dtype=torch.float32).eval()
    for reading in readings:
        ids = torch.tensor([[*reading.prompt_ids, *reading.action_ids]])
        with torch.inference_mode():
            states_TD = model(ids).last_hidden_state[0].numpy()
        action_TD = states_TD[len(reading.prompt_ids) :]
        expected_2D = np.stack([action_TD[-1], action_TD.mean(axis=0)])
        # bfloat16 has eight bits.
        assert np.abs(vectors[reading.key] - expected_2D).max() < 0.05 * np.abs(expected_2D).max()
