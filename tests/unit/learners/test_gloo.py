"""Ranks without a GPU listen on their node's address, unless they are told where."""

import os

import pytest
import ray

from learners.common.gloo import listen_where_ray_does


@pytest.mark.parametrize(("told", "listens"), [("", "lo"), ("eth9", "eth9")])
def test_ranks_listen_where_their_node_is(
    told: str, listens: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", told)
    listen_where_ray_does()
    assert os.environ["GLOO_SOCKET_IFNAME"] == listens
