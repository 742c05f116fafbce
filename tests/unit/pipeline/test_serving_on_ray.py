"""Ray Serve's start has a deadline of ours, whatever its own calls wait for."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from r2v_dist.errors import RuntimeFailure
from r2v_dist.pipeline import serving_on_ray
from r2v_dist.pipeline.served_models import Calls

SERVED: Any = SimpleNamespace(
    config=SimpleNamespace(cluster=SimpleNamespace(engine_start_deadline_s=0.2))
)


def test_a_start_that_never_ends_is_ended_and_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    over = threading.Event()
    monkeypatch.setattr(serving_on_ray, "_run", lambda *_: over.wait(60))
    with pytest.raises(RuntimeFailure, match=r"within 0\.2 s \(cluster\.engine_start_deadline_s"):
        serving_on_ray._start(SERVED, "127.0.0.1", 0, Calls())
    over.set()
    assert "within 0.2 s" in capsys.readouterr().err


def test_what_ray_serve_says_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("deploying failed:\n  no such port")

    monkeypatch.setattr(serving_on_ray, "_run", fail)
    with pytest.raises(RuntimeFailure, match="the gateway: deploying failed: no such port"):
        serving_on_ray._start(SERVED, "127.0.0.1", 0, Calls())
