"""Wrong programs on purpose: a mutant is the canonical solution with one small mistake, and counts
only once the full verdict failed it.

Everything is a pure function of (program, seed): the sites are numbered in the order in which the
syntax tree is walked.
"""

import ast
import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from envs.coding.judge import Judge, kept
from envs.coding.tasks import CodeTask
from r2v_dist.errors import RuntimeFailure
from r2v_dist.files import write_atomically
from r2v_dist.seeding import rng_for

VARIANTS = 4
"""Different wrong solutions kept of a task; more seeds share them."""
_TRIED = 60


@dataclass(frozen=True)
class Mutant:
    """One changed program, and the operator that changed it."""

    operator: str
    code: str


def mutants(code: str, seed: int) -> Iterator[Mutant]:
    """Every program that is one mistake away, each once, in an order that the seed decides."""
    tree = ast.parse(code)
    sites = []
    for number, node in enumerate(ast.walk(tree)):
        sites += [(number, site) for site in range(len(_mistakes(node)))]
    rng_for("mutants", code, seed).shuffle(sites)
    original = ast.unparse(tree)
    programs = set[str]()
    for number, site in sites:
        mutant = copy.deepcopy(tree)
        node = next(node for i, node in enumerate(ast.walk(mutant)) if i == number)
        name, change = _mistakes(node)[site]
        change()
        program = ast.unparse(ast.fix_missing_locations(mutant)) + "\n"
        if program.rstrip() != original and program not in programs:
            programs.add(program)
            yield Mutant(name, program)


def wrong_solution(judge: Judge, task: CodeTask, seed: int) -> str:
    """A program that the full verdict fails: a mutant that answers wrongly, or where none does, one
    that never answers.

    Memoised on disk; seeds that are equal modulo VARIANTS give the same program.
    """
    variant = seed % VARIANTS
    path = judge.memo(task, f"wrong-{variant}")
    entry = kept(path, "code")
    if entry is None:
        entry = {"task": task.id, "code": _search(judge, task, variant)}
        write_atomically(path, json.dumps(entry))
    return str(entry["code"])


def _search(judge: Judge, task: CodeTask, variant: int) -> str:
    for _, mutant in zip(range(_TRIED), mutants(task.code, variant), strict=False):
        # Mutants that crash or never end are wrong too, but an agent would notice.
        if judge.verdict(task, mutant.code).wrong_output:
            return mutant.code
    code = f"{task.code}\n\ndef {task.entry_point}(*arguments):\n    raise NotImplementedError\n"
    if judge.verdict(task, code).passed:
        raise RuntimeFailure(f"task {task.id}: a program that never answers passes its tests")
    return code


_Mistake = tuple[str, Callable[[], object]]
_COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.GtE),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.LtE),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
}
_ARITHMETIC: dict[type[ast.operator], tuple[type[ast.operator], ...]] = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Add,),
    ast.Div: (ast.FloorDiv, ast.Mult),
    ast.FloorDiv: (ast.Div, ast.Mod),
    ast.Mod: (ast.FloorDiv,),
    ast.Pow: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
    ast.BitXor: (ast.BitOr,),
}


def _mistakes(node: ast.AST) -> list[_Mistake]:
    """The mistakes that can be made at a node; calling one makes it, in place."""
    mistakes: list[_Mistake] = []
    if isinstance(node, ast.Compare):
        for place, operator in enumerate(node.ops):
            mistakes += [
                ("comparison", _set_item(node.ops, place, replacement()))
                for replacement in _COMPARISONS[type(operator)]
            ]
    elif isinstance(node, ast.BinOp | ast.AugAssign):
        mistakes += [
            ("arithmetic", _set(node, "op", replacement()))
            for replacement in _ARITHMETIC.get(type(node.op), ())
        ]
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        mistakes.append(("boolean", _set(node, "value", not node.value)))
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        mistakes += [("constant", _set(node, "value", node.value + step)) for step in (1, -1)]
    elif isinstance(node, ast.BoolOp):
        mistakes.append(
            ("boolean", _set(node, "op", ast.Or() if isinstance(node.op, ast.And) else ast.And()))
        )
    elif isinstance(node, ast.If | ast.While | ast.IfExp):
        mistakes.append(("negation", _set(node, "test", ast.UnaryOp(ast.Not(), node.test))))
    elif isinstance(node, ast.Slice):
        mistakes += [
            ("bound", _set(node, name, _plus(bound, 1)))
            for name in ("lower", "upper")
            if (bound := getattr(node, name))
        ]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range":
        for i, argument in enumerate(node.args):
            for step in (1, -1):
                mistakes.append(("bound", _set_item(node.args, i, _plus(argument, step))))
    elif isinstance(node, ast.Return) and node.value is not None:
        mistakes.append(("return", _set(node, "value", ast.Constant(None))))
        mistakes.append(("return", _set(node, "value", ast.UnaryOp(ast.Not(), node.value))))
    body = getattr(node, "body", None)
    if isinstance(body, list) and not isinstance(node, ast.Module | ast.ClassDef):
        mistakes += [
            ("dropped", _set_item(body, i, ast.Pass()))
            for i, statement in enumerate(body)
            if isinstance(statement, _DROPPED)
        ]
    return mistakes


_DROPPED = (ast.Assign, ast.AugAssign, ast.If, ast.For, ast.Continue, ast.Break)


def _set(node: ast.AST, name: str, value: object) -> Callable[[], object]:
    return lambda: setattr(node, name, value)


def _set_item(items: list[Any], place: int, value: ast.AST) -> Callable[[], object]:
    return lambda: items.__setitem__(place, value)


def _plus(bound: ast.expr, step: int) -> ast.expr:
    return ast.BinOp(bound, ast.Add() if step > 0 else ast.Sub(), ast.Constant(1))
