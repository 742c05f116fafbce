"""What `--dry-run` says of hours where language models are trained on CPUs: operations a token
divided by a rate that was measured. It counts no games, no branches and no loading.
"""

from collections.abc import Iterator

from cluster.architectures import shape_of
from r2v_dist.config.learners import LearnerConfig
from r2v_dist.config.run import RunConfig
from r2v_dist.pipeline.memory_plan import SCRATCH, trained

GFLOPS = {True: 60.0, False: 43.0}
"""Operations that a thread does in a second of training, in 10^9, in bfloat16 (True) and float32
(False), on a processor with bfloat16 instructions, by what trainings did on two threads. bfloat16
lies between two whole ones: 35 (SmolLM2-135M, all weights, beside other work) and 77
(Qwen2.5-Coder-0.5B, an adapter, checkpointing). float32 is `benchmarks.learner` with the first.
"""


def time_plan(config: RunConfig) -> str:
    """Lines that begin with `#`; empty where no language model is trained."""
    lines = list(_lines(config))
    title = "# time of learners where they run on CPUs, by arithmetic; others take what they take"
    return "\n".join([title, *lines]) if lines else ""


def tokens_per_second(parameters: int, learner: LearnerConfig) -> float:
    """Tokens that all ranks read in a second. A parameter costs two operations a token forward and
    four backward; with checkpointing the forward pass is done twice. An adapter spares two and
    loses them in many small products: 120 tokens/s were measured against 137.
    """
    operations = 8 if learner.gradient_checkpointing else 6
    threads = learner.deepspeed.ranks * learner.deepspeed.threads_per_rank
    return threads * GFLOPS[learner.bf16] * 1e9 / (operations * parameters)


def _lines(config: RunConfig) -> Iterator[str]:
    for name, model, learner in trained(config):
        shape = shape_of(str(SCRATCH) if model == "scratch" else model)
        if shape is None:
            continue
        rate = tokens_per_second(shape.parameters, learner)
        line = f"# {name}: {rate:,.0f} tokens/s, {1e6 / rate / 3600:.1f} hours for a million"
        if name == "bc":
            episodes = _episodes(config)
            tokens = episodes * learner.max_length * learner.epochs
            line += (
                f"; {episodes} episodes x {learner.epochs:g} epochs, at most "
                f"{tokens / rate / 3600:.1f} hours"
            )
        yield line


def _episodes(config: RunConfig) -> int:
    """Teacher episodes, if all succeed."""
    collect = config.collect
    tasks = min(collect.tasks or config.env.size("train"), config.env.size("train"))
    return tasks * (collect.clean_episodes + collect.perturbed_episodes)
