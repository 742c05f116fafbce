"""What is shown of a learner is read while the learner writes it."""

from pathlib import Path

from r2v_dist.storage.metrics_log import last_row


def test_a_row_that_is_only_half_written_is_not_read(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    assert last_row(metrics) is None
    metrics.write_text('{"step": 1')
    assert last_row(metrics) is None
    metrics.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert last_row(metrics) == {"step": 2}
    metrics.write_bytes(b'{"step": 1}\n' + b"\0\xff" * 40 + b"\n")  # a power cut
    assert last_row(metrics) is None
