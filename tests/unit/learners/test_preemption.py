"""An announced loss of a node makes one checkpoint, whichever step it falls on."""

from types import SimpleNamespace

import pytest
import ray.train
import torch

from learners.common import preemption


def test_every_announcement_is_saved_once(monkeypatch: pytest.MonkeyPatch) -> None:
    announced: list[str | None] = [None, "node a", "node a", "nodes a and b", None]
    answers = iter(announced)
    monkeypatch.setattr(ray.train, "get_preemption_info", lambda: next(answers))
    monkeypatch.setattr(torch.distributed, "broadcast", lambda tensor, src: None)
    monkeypatch.setattr(preemption, "LOOK_EVERY_S", -1.0)  # at every step
    watch = preemption.preemption_watch()
    saved = []
    for _ in announced:
        control = SimpleNamespace(should_save=False)
        watch.on_step_end(SimpleNamespace(device="cpu"), None, control)
        saved.append(control.should_save)
    assert saved == [False, True, False, True, False]


def test_where_nobody_tells_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(preemption.PREEMPTION_WATCHER, raising=False)
    assert preemption.may_be_announced()
    monkeypatch.setenv(preemption.PREEMPTION_WATCHER, "0")
    assert not preemption.may_be_announced()
