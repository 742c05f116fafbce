"""Whether what runs at the same time finds room on the nodes of a cluster, and what does not and
why. Asks nobody: nodes and bundles are given.

Room is counted per node and per GPU: a share of a GPU lies on one GPU, several GPUs of one bundle
on one node. `misfit` refuses only what no placement whatever could hold.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

_EPSILON = 1e-6
"""Ray counts in ten-thousandths."""
_MOST_TRIES = 20_000
"""Of the search; when they are used up, nothing is refused."""
_MOST_SEARCHED = 300
"""Bundles; of more, only sums and the largest are checked."""


@dataclass(frozen=True)
class Node:
    """What a node has, whoever holds it."""

    name: str
    cpus: float
    gpus: float


@dataclass(frozen=True)
class Bundle:
    """`count` equal parts, each of which needs its cores and GPUs on one node.

    `key` and `value` are the configuration key that decides the size, and its value.
    """

    what: str
    key: str
    value: float
    cpus: float = 0.0
    gpus: float = 0.0
    count: int = 1

    def __str__(self) -> str:
        return f"{self.key} = {self.value:g}"

    @property
    def size(self) -> str:
        """What one part needs, in words."""
        parts = [_amount(self.gpus, "GPU"), _amount(self.cpus, "core")]
        return " and ".join(part for part in parts if part)


def misfit(bundles: Sequence[Bundle], nodes: Sequence[Node]) -> str | None:
    """Which bundles find no room on the nodes, by their keys, and why; None where they may."""
    for bundle in bundles:
        room = sum(_room_alone(bundle, node) for node in nodes)
        if room < bundle.count:
            return _one_is_too_large(bundle, room, nodes)
    demand = sum(bundle.gpus * bundle.count for bundle in bundles)
    supply = sum(node.gpus for node in nodes)
    if demand > supply + _EPSILON or not _may_pack(bundles, nodes):
        keys = " + ".join(bundle.key for bundle in bundles if bundle.gpus)
        return (
            f"{keys} = {round(demand, 6):g} GPUs at the same time: {described(nodes)} cannot hold "
            f"{_listed([bundle for bundle in bundles if bundle.gpus])} together"
        )
    return None


def described(nodes: Sequence[Node]) -> str:
    """The nodes with what they have; equal ones are counted."""
    sizes: dict[tuple[float, float], list[str]] = {}
    for node in nodes:
        sizes.setdefault((node.gpus, node.cpus), []).append(node.name)
    parts = []
    for (gpus, cpus), names in sorted(sizes.items(), reverse=True):
        label = names[0] if len(names) == 1 else f"{len(names)} nodes (each"
        amounts = f"{_amount(gpus, 'GPU') or 'no GPU'}, {_amount(cpus, 'core') or 'no core'}"
        parts.append(f"{label} ({amounts})" if len(names) == 1 else f"{label} {amounts})")
    return ", ".join(parts) or "the cluster without a node"


def _one_is_too_large(bundle: Bundle, room: int, nodes: Sequence[Node]) -> str:
    if bundle.count == 1:
        return (
            f"{bundle}: {bundle.what} needs {bundle.size} on one node; none of these has that: "
            f"{described(nodes)}"
        )
    return (
        f"{bundle}: {bundle.what} needs {bundle.size} each, so there is room for {room} of "
        f"{bundle.count} on {described(nodes)}"
    )


def _room_alone(bundle: Bundle, node: Node) -> int:
    """How many parts an otherwise empty node holds."""
    rooms = []
    if bundle.cpus:
        rooms.append(int((node.cpus + _EPSILON) // bundle.cpus))
    if bundle.gpus >= 1:
        rooms.append(int((node.gpus + _EPSILON) // bundle.gpus))
    elif bundle.gpus:
        rooms.append(int(node.gpus) * int((1 + _EPSILON) // bundle.gpus))
    return min(rooms, default=bundle.count)


_Free = tuple[float, tuple[float, ...]]
"""Free cores of a node, and what is free of each of its GPUs, in order."""


def _may_pack(bundles: Sequence[Bundle], nodes: Sequence[Node]) -> bool:
    """Whether all bundles may lie on the nodes together; True too where nobody knows."""
    parts: list[Bundle] = []
    for bundle in bundles:
        parts += [replace(bundle, count=1)] * bundle.count
    if len(parts) > _MOST_SEARCHED:
        return True
    parts.sort(key=lambda part: (-part.gpus, -part.cpus))
    start = tuple(sorted((node.cpus, (1.0,) * int(node.gpus)) for node in nodes))
    dead_ends: set[tuple[int, tuple[_Free, ...]]] = set()
    tries = 0

    def fits(index: int, state: tuple[_Free, ...]) -> bool:
        nonlocal tries
        if index == len(parts) or tries > _MOST_TRIES:
            return True
        if (index, state) in dead_ends:
            return False
        tries += 1
        for place in dict.fromkeys(state):
            for place_after in _after(parts[index], place):
                next_state = list(state)
                next_state[next_state.index(place)] = place_after
                if fits(index + 1, tuple(sorted(next_state))):
                    return True
        dead_ends.add((index, state))
        return False

    return fits(0, start)


def _after(part: Bundle, place: _Free) -> list[_Free]:
    """What is free of a node once it holds the part, for every different way to hold it."""
    cpus, gpus = place
    cpus_left = round(cpus - part.cpus, 6)
    if cpus_left < 0:
        return []
    if not part.gpus:
        return [(cpus_left, gpus)]
    if part.gpus >= 1:
        whole_gpus = [index for index, free in enumerate(gpus) if free > 1 - _EPSILON]
        part_gpus = whole_gpus[: round(part.gpus)]
        if len(part_gpus) < round(part.gpus):
            return []
        return [(cpus_left, tuple(0.0 if i in part_gpus else free for i, free in enumerate(gpus)))]
    ways = []
    for free in sorted(set(gpus)):
        if free + _EPSILON >= part.gpus:
            gpus_left = list(gpus)
            gpus_left[gpus_left.index(free)] = round(max(0.0, free - part.gpus), 6)
            ways.append((cpus_left, tuple(sorted(gpus_left))))
    return ways


def _amount(number: float, unit: str) -> str:
    if not number:
        return ""
    return f"{number:g} {unit}" if number <= 1 else f"{number:g} {unit}s"


def _listed(bundles: Sequence[Bundle]) -> str:
    return ", ".join(
        f"{bundle.what} ({_amount(bundle.gpus, 'GPU')}"
        f"{f', {bundle.count} times' if bundle.count > 1 else ''})"
        for bundle in bundles
    )
