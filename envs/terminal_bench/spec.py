"""TerminalBench as the rest of the program knows it."""

from envs.spec import EnvSpec
from envs.terminal_bench.lexicon import LEXICON
from envs.terminal_bench.rules import TerminalRules
from envs.terminal_bench.splits import TERMINAL_BENCH, identity, in_place, make_tasks, sample
from r2v_dist.report.published import Published

SPEC = EnvSpec(
    id=TERMINAL_BENCH,
    entry_point="envs.terminal_bench.env:TerminalBenchEnv",
    make_tasks=make_tasks,
    identity=identity,
    in_place=in_place,
    lexicon=LEXICON,
    rules=lambda sandbox: TerminalRules(),
    sandboxed=True,
    samples={"terminal_bench": sample},
    published=Published(0.339, 0.933, "published, TerminalBench\n(other tasks): 93.3 % at 33.9 %"),
)
