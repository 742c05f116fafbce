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


def test_an_address_that_no_interface_has_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "203.0.113.7")
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    listen_where_ray_does()
    assert "GLOO_SOCKET_IFNAME" not in os.environ
    assert "no interface has this node's address 203.0.113.7" in caplog.text
