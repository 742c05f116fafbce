"""Containers beside a terminal's: what was started is removed, whatever fails."""

from typing import Any

import pytest

from envs.terminal_bench.docker.services import Services
from envs.terminal_bench.task import Service


class Api:
    """An engine that cannot remove one of its containers."""

    def __init__(self) -> None:
        self.there: list[str] = []

    def create_network(self, name: str, **_: Any) -> None:
        self.there.append("network")

    def remove_network(self, name: str) -> None:
        self.there.remove("network")

    def images(self, name: str) -> list[str]:
        return [name]

    def create_host_config(self, **_: Any) -> None: ...

    def create_endpoint_config(self, **_: Any) -> None: ...

    def create_networking_config(self, _: Any) -> None: ...

    def create_container(self, image: str, *_: Any, **__: Any) -> dict[str, str]:
        self.there.append(image)
        return {"Id": image}

    def start(self, container: str) -> None: ...

    def remove_container(self, container: str, **_: Any) -> None:
        if container == "stuck":
            raise OSError("it is stuck")
        self.there.remove(container)


def test_one_that_cannot_be_removed_keeps_nothing_else() -> None:
    api = Api()
    services = [Service(name, image=name) for name in ("first", "stuck", "last")]
    started = Services(api, tuple(services), memory_mib=64, processes=16)
    assert api.there == ["network", "first", "stuck", "last"]
    with pytest.raises(OSError, match="stuck"):
        started.close()
    assert api.there == ["stuck"]
