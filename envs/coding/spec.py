"""HumanEval+ and MBPP+ as the rest of the program knows them."""

from functools import partial

from envs.coding.lexicon import LEXICON
from envs.coding.splits import HUMANEVAL, MBPP, check_tasks, identity, in_place, make_tasks, sample
from envs.spec import EnvSpec
from r2v_dist.config.sandbox import SandboxConfig
from r2v_dist.report.published import Published
from r2v_dist.verifier.base import Verifier


def _rules(sandbox: SandboxConfig) -> Verifier:
    from envs.coding.rules import CodeRules

    return CodeRules(sandbox)


SPEC = EnvSpec(
    id=HUMANEVAL,
    aliases=(MBPP,),
    entry_point="envs.coding.env:CodeEnv",
    make_tasks=make_tasks,
    check_tasks=check_tasks,
    identity=identity,
    in_place=in_place,
    lexicon=LEXICON,
    rules=_rules,
    sandboxed=True,
    samples={
        "humaneval_plus": partial(sample, "humaneval_plus"),
        "mbpp_plus": partial(sample, "mbpp_plus"),
        "shipped": partial(sample, "shipped"),
    },
    published=Published(0.0060, 0.943, "published, HumanEval+:\n94.3 % at 0.60 % LLM calls"),
)
