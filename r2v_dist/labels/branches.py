"""Which branches a state gets."""

from r2v_dist.episodes import Arm, Branch
from r2v_dist.labels.states import State

CANDIDATE = "candidate"
TEACHER = "teacher"
"""Kinds of branches that value a first action: one of the SLM's candidates, or the teacher's."""


S = "S"
T1 = "T1"
TINF = "Tinf"
"""Kinds of branches that label a state for the router."""


RS = "RS"
RT = "RT"
"""Kinds in which a router goes on, after the SLM's action or the teacher's."""


def candidate_branches(
    state: State, arm: Arm, n: int, n_agreed: int, with_teacher: bool
) -> list[Branch]:
    """n branches for every distinct candidate, `n_agreed` where there is only one; as many for the
    teacher's action.
    """
    distinct = state.distinct
    replicas = range(1, 1 + (n if len(distinct) > 1 else n_agreed))
    branches = [
        Branch(CANDIDATE, arm, r, state.path, state.seen, first=taken)
        for taken in distinct
        for r in replicas
    ]
    if with_teacher:
        branches += [
            Branch(TEACHER, arm, r, state.path, state.seen, teacher_first=True) for r in replicas
        ]
    return branches


def label_branches(
    state: State,
    slm: Arm,
    teacher: Arm,
    n_s: int,
    n_t1: int,
    n_teacher: int,
    first_replica: int = 1,
) -> list[Branch]:
    """S-, T1- and Tinf-branches with common random numbers; the S-branches start with the action
    that was executed.
    """
    first = state.candidates[state.executed]

    def replicas(count: int) -> range:
        return range(first_replica, first_replica + count)

    return [
        *(Branch(S, slm, r, state.path, state.seen, first=first) for r in replicas(n_s)),
        *(Branch(T1, slm, r, state.path, state.seen, teacher_first=True) for r in replicas(n_t1)),
        *(Branch(TINF, teacher, r, state.path, state.seen) for r in replicas(n_teacher)),
    ]


def paired_branches(state: State, router: Arm, n: int) -> list[Branch]:
    """n pairs with common random numbers: the SLM's action or the teacher's, then the router on its
    own path.
    """
    first = state.candidates[state.executed]
    return [
        branch
        for replica in range(1, 1 + n)
        for branch in (
            Branch(RS, router, replica, state.path, state.seen, first=first),
            Branch(RT, router, replica, state.path, state.seen, teacher_first=True),
        )
    ]
