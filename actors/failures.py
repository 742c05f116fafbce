"""What a unit of work may end in beside a report. The type says whose failure it is: the unit's,
its process's, the collector's, or (UnitFailed) that of whatever the unit asked.
"""

from r2v_dist.errors import RuntimeFailure


class CollectorLost(RuntimeFailure):
    """The collector's process is gone, and with it what it had not written yet."""


class UnitFailed(RuntimeFailure):
    """A machine's doing: the unit is to be run again."""


class UnitBroken(RuntimeFailure):
    """The unit's own environment cannot be made or reset, or the unit ran past its deadline: its
    node's doing, or its own.
    """


class RunnerDied(RuntimeFailure):
    """The runner's process is gone, and with it every unit that it had. `starting`: it never
    ran one. `with_node`: its whole node is gone. `node` is empty where it
    is not known.
    """

    def __init__(self, cause: str, starting: bool, node: str = "", with_node: bool = False) -> None:
        super().__init__(cause)
        self.starting = starting
        self.node = node
        self.with_node = with_node


def innermost(error: BaseException) -> BaseException:
    """The error that caused the others."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
