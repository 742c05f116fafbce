"""TextWorld games as the rest of the program knows them."""

from envs.spec import EnvSpec
from envs.textworld.lexicon import LEXICON
from envs.textworld.rules import TextWorldRules
from envs.textworld.tasks import check_tasks, identity, in_place, make_tasks, sample
from r2v_dist.report.published import Published

SPEC = EnvSpec(
    id="r2v/TextWorld-v0",
    entry_point="envs.textworld.env:TextWorldEnv",
    make_tasks=make_tasks,
    check_tasks=check_tasks,
    identity=identity,
    in_place=in_place,
    lexicon=LEXICON,
    rules=lambda sandbox: TextWorldRules(),
    threads=False,  # a game's interpreter is not made for them
    samples={"textworld": sample},
    published=Published(0.417, 0.982, "published, TextWorld:\n98.2 % at 41.7 % LLM calls"),
)
