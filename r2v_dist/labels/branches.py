"""Which branches a state gets.

Branches of one state and replica draw common random numbers, whatever their kind.
"""

from r2v_dist.episodes import Arm, Branch
from r2v_dist.labels.states import State

CANDIDATE = "candidate"
TEACHER = "teacher"
"""Kinds of branches that value a first action: a candidate of the SLM, or the teacher's action."""

S = "S"
T1 = "T1"
TINF = "Tinf"
"""Kinds of branches that label a state for the router: the SLM acts to the end, the teacher acts
once and then the SLM, the teacher acts to the end."""

RS = "RS"
RT = "RT"
"""Kinds of branches in which a router acts after the SLM's action, or after the teacher's."""


def candidate_branches(
    state: State, arm: Arm, n: int, n_agreed: int, with_teacher: bool
) -> list[Branch]:
    """n branches for every distinct candidate, `n_agreed` where all candidates are one action;
    `with_teacher` adds as many for the teacher's action.
    """
    distinct = state.distinct
    replicas = range(1, 1 + (n if len(distinct) > 1 else n_agreed))
    path = state.path
    branches = []
    for candidate in distinct:
        branches += [
            Branch(CANDIDATE, arm, r, path, state.observation_hash, first=candidate)
            for r in replicas
        ]
    if with_teacher:
        for r in replicas:
            branches.append(
                Branch(TEACHER, arm, r, path, state.observation_hash, teacher_first=True)
            )
    return branches


def label_branches(
    state: State,
    slm: Arm,
    teacher: Arm,
    n_s: int,
    n_t1: int,
    n_teacher: int,
) -> list[Branch]:
    """S-, T1- and Tinf-branches with common random numbers; the S-branches start with the action
    that was executed.
    """
    first = state.candidates[state.executed]
    path = state.path
    branches = []
    for r in range(1, 1 + n_s):
        branches.append(Branch(S, slm, r, path, state.observation_hash, first=first))
    for r in range(1, 1 + n_t1):
        branches.append(Branch(T1, slm, r, path, state.observation_hash, teacher_first=True))
    for r in range(1, 1 + n_teacher):
        branches.append(Branch(TINF, teacher, r, path, state.observation_hash))
    return branches


def paired_branches(state: State, router: Arm, n: int) -> list[Branch]:
    """n pairs with common random numbers: the SLM's action or the teacher's, after which the router
    decides.
    """
    first = state.candidates[state.executed]
    path = state.path
    branches = []
    for r in range(1, 1 + n):
        branches.append(Branch(RS, router, r, path, state.observation_hash, first=first))
        branches.append(Branch(RT, router, r, path, state.observation_hash, teacher_first=True))
    return branches
