"""What finds no room is named with the reason, per node and per GPU; what some placement holds is
never refused.
"""

from itertools import product

import pytest

from cluster.placement import Bundle, Node, described, misfit


def engine(gpus: float, role: str = "slm") -> Bundle:
    return Bundle(f"the {role} engine", f"{role}.tensor_parallel", gpus, gpus=gpus)


def ranks(count: int) -> Bundle:
    return Bundle("a rank", "bc.deepspeed.ranks", count, 1.0, 1.0, count)


def nodes(*gpus: float, cpus: float = 8) -> list[Node]:
    return [Node(f"n{index}", cpus, count) for index, count in enumerate(gpus)]


def test_several_gpus_of_an_engine_lie_on_one_node() -> None:
    assert misfit([engine(4)], nodes(4)) is None
    assert misfit([engine(4)], nodes(2, 2)) == (
        "slm.tensor_parallel = 4: the slm engine needs 4 GPUs on one node; none of these has "
        "that: 2 nodes (each 2 GPUs, 8 cores)"
    )


def test_shares_lie_on_one_gpu_though_their_sum_would_fit() -> None:
    shares = [engine(0.6), engine(0.6, "teacher"), engine(0.6, "verifier")]
    assert misfit(shares, nodes(3)) is None
    problem = misfit(shares, nodes(2))
    assert problem is not None
    assert problem.startswith(
        "slm.tensor_parallel + teacher.tensor_parallel + verifier.tensor_parallel = 1.8 GPUs at "
        "the same time: n0 (2 GPUs, 8 cores) cannot hold the slm engine (0.6 GPU), "
    )
    assert misfit([engine(0.6), engine(0.4)], nodes(1)) is None


def test_whole_gpus_stay_free_of_shares() -> None:
    assert misfit([engine(0.5), engine(0.5, "teacher"), engine(1, "third")], nodes(2)) is None
    assert misfit([engine(0.6), engine(0.6, "teacher"), engine(1, "third")], nodes(2)) is not None


def test_ranks_count_on_every_node_by_cores_and_gpus() -> None:
    assert misfit([ranks(6)], nodes(4, 2)) is None
    assert misfit([ranks(6)], [Node("a", 1, 4), Node("b", 8, 2)]) == (
        "bc.deepspeed.ranks = 6: a rank needs 1 GPU and 1 core each, so there is room for 3 of "
        "6 on a (4 GPUs, 1 core), b (2 GPUs, 8 cores)"
    )
    assert misfit([ranks(1)], []) is not None


def test_a_packing_is_found_where_the_largest_first_goes_wrong() -> None:
    """Into two nodes of 8: 4, 2, 2 and 3, 3, 2; the largest first, side by side, leaves one 2."""
    sizes = (4, 3, 3, 2, 2, 2)
    bundles = [engine(size, f"e{index}") for index, size in enumerate(sizes)]
    assert misfit(bundles, nodes(8, 8)) is None
    assert misfit([*bundles, engine(1, "more")], nodes(8, 8)) is not None


@pytest.mark.parametrize("capacity", [(2, 2), (4, 1), (3, 2)])
def test_nothing_is_refused_that_trying_everything_can_place(capacity: tuple[int, int]) -> None:
    choices = (0.4, 0.6, 1.0, 2.0)
    for sizes in product(choices, repeat=3):
        bundles = [engine(size, f"e{index}") for index, size in enumerate(sizes)]
        assert (misfit(bundles, nodes(*capacity)) is None) == placeable(list(sizes), capacity)


def placeable(sizes: list[float], capacity: tuple[int, ...]) -> bool:
    """Whether some choice of GPUs for every engine overfills none, by trying all of them."""
    gpus = [(node, gpu) for node, count in enumerate(capacity) for gpu in range(count)]
    ways = [ways_of(size, gpus) for size in sizes]
    for choice in product(*ways):
        held = dict.fromkeys(gpus, 0.0)
        for size, taken in zip(sizes, choice, strict=True):
            for gpu in taken:
                held[gpu] += min(size, 1.0)
        if max(held.values()) <= 1 + 1e-6:
            return True
    return False


def ways_of(size: float, gpus: list[tuple[int, int]]) -> list[tuple[tuple[int, int], ...]]:
    if size <= 1:
        return [(gpu,) for gpu in gpus]
    return [(a, b) for a in gpus for b in gpus if a < b and a[0] == b[0]]


def test_equal_nodes_are_counted_and_no_node_is_said() -> None:
    assert described([]) == "the cluster without a node"
    assert described(nodes(0, 2, 2)) == "2 nodes (each 2 GPUs, 8 cores), n0 (no GPU, 8 cores)"


def test_a_thousand_ranks_and_hundreds_of_engines_take_no_time() -> None:
    assert misfit([ranks(1000)], nodes(*[8] * 125)) is None
    assert misfit([ranks(1001)], nodes(*[8] * 125, cpus=64)) is not None
    many = [Bundle("an engine", "slm.replicas", 200, gpus=1.0, count=200)]
    assert misfit([*many, engine(0.5, "verifier")], nodes(*[8] * 25)) is not None
    assert misfit([*many, engine(0.5, "verifier")], nodes(*[8] * 25, 1)) is None
