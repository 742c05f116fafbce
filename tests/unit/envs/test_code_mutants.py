"""Mutants are programs with one mistake, the same ones for the same seed; what counts as wrong has
failed the full verdict.
"""

import ast

from envs.coding.judge import Judge
from envs.coding.mutants import mutants, wrong_solution
from envs.coding.tasks import load_task, task_ids

PROGRAM = '''def f(items, n):
    """Not code: 1 < 2."""
    total = 0
    for i in range(n):
        if items[i] < 10 and i != 3:
            total += items[i] * 2
    return total - len(items[1:]) if n else True
'''


def test_every_operator_makes_programs_that_parse_and_differ() -> None:
    made = list(mutants(PROGRAM, 0))
    assert {m.operator for m in made} == {
        "comparison",
        "arithmetic",
        "constant",
        "boolean",
        "negation",
        "bound",
        "return",
        "dropped",
    }
    assert len({m.code for m in made}) == len(made) > 25
    original = ast.unparse(ast.parse(PROGRAM))
    for mutant in made:
        assert ast.unparse(ast.parse(mutant.code)) != original
        assert "Not code: 1 < 2." in mutant.code


def test_the_seed_decides_the_order_and_nothing_else() -> None:
    first, again, other = (list(mutants(PROGRAM, seed)) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert set(first) == set(other)


def test_wrong_solutions_fail_by_what_they_answer_and_are_kept(judge: Judge) -> None:
    for name in task_ids("shipped"):
        task = load_task("shipped", name)
        programs = [wrong_solution(judge, task, seed) for seed in range(4)]
        assert len(set(programs)) >= 2
        for seed, program in enumerate(programs):
            assert judge.verdict(task, program).wrong_output
            assert (
                wrong_solution(judge, task, seed)
                == program
                == wrong_solution(judge, task, seed + 4)
            )
