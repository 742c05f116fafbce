"""Nodes on which nothing can be played, beside one on which everything can: they are excluded, and
no task is blamed.
"""

import pytest

from tests.runs import benchmark


@pytest.mark.slow
def test_nodes_without_games_sandbox_or_disk_are_excluded_and_no_task_is_blamed() -> None:
    found = benchmark("chaos", ["--targets=bad_node", "--tasks=80"], 400)
    assert found["clean"]
    assert found["bad_node"]["innocents"] == 0
    assert found["bad_node"]["excluded"] == 3
    assert all(1 <= n <= 5 for n in found["bad_node"]["failed_before_exclusion"].values())
