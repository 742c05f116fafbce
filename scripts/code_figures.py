"""Prints how dense and how large the product's code is, so that the style rules can be checked.

Usage: `python scripts/code_figures.py`. It counts tracked Python files of the product packages.
"""

import ast
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles

PACKAGES = ("r2v_dist", "envs", "actors", "learners", "cluster")
WIDTH = 100
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass
class Figures:
    """Counts over all files that were added."""

    lines: int = 0
    wide: int = 0
    comprehensions: int = 0
    nested: int = 0
    parallel_assignments: int = 0
    ternaries: int = 0
    arguments: int = 0
    annotated: int = 0
    file_lengths: list[int] = field(default_factory=list)
    function_lengths: list[int] = field(default_factory=list)

    def add(self, source: str) -> None:
        """Count one file."""
        lines = source.splitlines()
        self.lines += len(lines)
        self.wide += sum(len(line) > WIDTH for line in lines)
        self.file_lengths.append(len(lines))
        for node in ast.walk(ast.parse(source)):
            self._count(node)

    def _count(self, node: ast.AST) -> None:
        if isinstance(node, COMPREHENSIONS):
            self.comprehensions += 1
            inner = (child for child in ast.walk(node) if child is not node)
            self.nested += any(isinstance(child, COMPREHENSIONS) for child in inner)
            self.nested += len(node.generators) > 1
        elif isinstance(node, ast.Assign):
            target = node.targets[0]
            both = isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
            self.parallel_assignments += both
        elif isinstance(node, ast.IfExp):
            self.ternaries += 1
        elif isinstance(node, FUNCTIONS):
            self._count_function(node)

    def _count_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        assert node.end_lineno is not None
        self.function_lengths.append(node.end_lineno - node.lineno + 1)
        given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        for argument in given:
            if argument.arg in ("self", "cls"):
                continue
            self.arguments += 1
            self.annotated += argument.annotation is not None

    def render(self) -> str:
        """One figure a line, each beside its target."""
        per_1000 = 1000 / max(1, self.lines)
        rows = [
            ("files", f"{len(self.file_lengths)}", ""),
            ("lines", f"{self.lines}", ""),
            (f"lines over {WIDTH} columns", f"{self.wide / max(1, self.lines):.1%}", "< 1 %"),
            ("comprehensions per 1,000 lines", f"{self.comprehensions * per_1000:.1f}", "<= 30"),
            ("nested ones per 1,000 lines", f"{self.nested * per_1000:.1f}", "<= 2"),
            (
                "parallel assignments per 1,000 lines",
                f"{self.parallel_assignments * per_1000:.1f}",
                "<= 4",
            ),
            ("conditional expressions per 1,000 lines", f"{self.ternaries * per_1000:.1f}", ""),
            ("file length, median", f"{median(self.file_lengths):.0f}", "<= 150"),
            (
                "file length, 90th percentile",
                f"{quantiles(self.file_lengths, n=10)[-1]:.0f}",
                "<= 300",
            ),
            ("function length, median", f"{median(self.function_lengths):.0f}", "<= 10"),
            ("arguments annotated", f"{self.annotated / max(1, self.arguments):.1%}", "100 %"),
        ]
        return "\n".join(f"{name:<42}{value:>8}   {target}" for name, value, target in rows)


def main() -> None:
    """Count the tracked files of the product."""
    listed = subprocess.run(
        ["git", "ls-files", *(f"{package}/*.py" for package in PACKAGES)],
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    figures = Figures()
    for name in listed.stdout.split():
        figures.add(Path(name).read_text(encoding="utf-8"))
    print(figures.render())


if __name__ == "__main__":
    main()
