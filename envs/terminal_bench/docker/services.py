"""The containers beside a terminal's, and the network that they share with it and with nothing
else. Invariant: what was started is removed by `close`.
"""

import contextlib
import time
import uuid
from typing import Any

from envs.terminal_bench.docker.engine import image_of
from envs.terminal_bench.task import Service
from r2v_dist.errors import RuntimeFailure

_READY_S = 120.0
_LOOK_S = 0.2
_LOOK_NS = 500_000_000
_RETRIES = 240


class Services:
    """Starts at once, and waits until those with a health check are ready. Raises RuntimeFailure
    where one is not, and what the engine raises.
    """

    def __init__(
        self, api: Any, services: tuple[Service, ...], memory_mib: int, processes: int
    ) -> None:
        self._api = api
        self.network = f"r2v-{uuid.uuid4().hex[:12]}"
        self._containers: dict[str, Service] = {}
        api.create_network(self.network, driver="bridge", internal=True, labels={"r2v": ""})
        try:
            for service in services:
                self._start(service, memory_mib, processes)
            self._wait()
        except BaseException:
            self.close()
            raise

    def endpoint(self, aliases: tuple[str, ...] = ()) -> Any:
        """What joins a container to the network."""
        config = self._api.create_endpoint_config(aliases=list(aliases))
        return self._api.create_networking_config({self.network: config})

    def _start(self, service: Service, memory_mib: int, processes: int) -> None:
        api = self._api
        limits = api.create_host_config(
            network_mode=self.network,
            mem_limit=memory_mib << 20,
            pids_limit=processes,
            security_opt=["no-new-privileges"],
        )
        health = {"test": list(service.health), "interval": _LOOK_NS, "retries": _RETRIES}
        container = api.create_container(
            image_of(api, service.image, service.context),
            list(service.command) or None,
            environment=dict(service.environment),
            host_config=limits,
            networking_config=self.endpoint(service.aliases),
            healthcheck=health if service.health else None,
            labels=["r2v"],
        )
        self._containers[container["Id"]] = service
        api.start(container["Id"])

    def _wait(self) -> None:
        """Until every health check has passed."""
        deadline = time.monotonic() + _READY_S
        container_ids = [
            container_id for container_id, service in self._containers.items() if service.health
        ]
        while container_ids:
            state = self._api.inspect_container(container_ids[0])["State"]
            if state.get("Health", {}).get("Status") == "healthy":
                container_ids.pop(0)
                continue
            name = self._containers[container_ids[0]].name
            if not state.get("Running"):
                raise RuntimeFailure(f"the task's service {name} ended before it was ready")
            if time.monotonic() > deadline:
                raise RuntimeFailure(f"the task's service {name} was not ready in {_READY_S:g} s")
            time.sleep(_LOOK_S)

    def close(self) -> None:
        """Remove the containers and then the network, each whatever became of the others."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._api.remove_network, self.network)
            for container in self._containers:
                stack.callback(self._api.remove_container, container, force=True, v=True)
