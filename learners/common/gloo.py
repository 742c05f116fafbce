"""Ranks without a GPU listen where Ray reaches their node.

Gloo by itself listens where the host's own name leads: 127.0.1.1 on a plain Debian, where no rank
of another host finds it.
"""

import logging
import os
from typing import Any

import psutil
import ray
from ray.train.torch import TorchConfig

_LOG = logging.getLogger(__name__)
_INTERFACE = "GLOO_SOCKET_IFNAME"


def listen_where_ray_does() -> None:
    """Name the interface of this node's address to Gloo, unless the environment names one."""
    if os.environ.get(_INTERFACE):
        return
    address = ray.util.get_node_ip_address()
    for interface, addresses in psutil.net_if_addrs().items():
        if address in [entry.address for entry in addresses]:
            os.environ[_INTERFACE] = interface
            return
    _LOG.warning(
        "no interface has this node's address %s: Gloo listens where the host's name leads; if "
        "ranks do not meet, set %s",
        address,
        _INTERFACE,
    )


class _Backend(TorchConfig().backend_cls):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        worker_group.execute(listen_where_ray_does)
        super().on_start(worker_group, backend_config)


class TorchBetweenNodes(TorchConfig):  # type: ignore[misc]
    """Ray Train's set-up of torch.distributed, preceded by `listen_where_ray_does` on each rank."""

    @property
    def backend_cls(self) -> type[Any]:
        """The backend that Ray Train makes and calls."""
        return _Backend
