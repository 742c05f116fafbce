"""Continues training on another number of ranks: DeepSpeed writes a checkpoint in as many parts as
there are ranks, and its Universal Checkpoint has none.

Whatever the number of ranks, every rank takes the same decision: continue, convert and continue, or
start again with a line that says why.
"""

import subprocess
from pathlib import Path

from learners.common.remote_checkpoints import NOTICES, follow
from r2v_dist.config.deepspeed import DeepSpeedConfig
from r2v_dist.files import append_json_line
from r2v_dist.object_storage import mirror as mirrors
from r2v_dist.processes.child import child_command, child_environment

_UNIVERSAL = "latest_universal"


def parts_of(checkpoint: Path) -> tuple[int, bool]:
    """How many ranks wrote a checkpoint (0: their optimizer was not divided), and whether they had
    divided the parameters too (ZeRO-3).
    """
    optimizers = list(checkpoint.glob("global_step*[0-9]/*zero_pp_rank_*_optim_states.pt"))
    parameters = list(checkpoint.glob("global_step*[0-9]/*zero_pp_rank_*_model_states.pt"))
    return len(optimizers), bool(parameters)


def prepare(checkpoint: Path, config: DeepSpeedConfig, learner: str) -> str:
    """How to go on from a checkpoint: `as it is`, `universal` where it was converted, or `again`.
    Call on every rank.
    """
    import torch.distributed

    ranks, sharded = parts_of(checkpoint)
    layout = (config.ranks if config.zero_stage else 0, config.zero_stage == 3)
    if (ranks, sharded) == layout or not (ranks or layout[0]):
        return "as it is"
    decision = ["again"]
    if torch.distributed.get_rank() == 0:
        same_kind = bool(ranks) == bool(layout[0]) and sharded == layout[1]
        problem = _convert(checkpoint) if same_kind else "it is of another stage of ZeRO"
        decision = ["again" if problem else "universal"]
        if problem:
            line = (
                f"learner {learner}: its checkpoint, in {ranks} parts, does not serve "
                f"{config.ranks} ranks with ZeRO-{config.zero_stage} ({problem}); it starts again"
            )
            append_json_line(checkpoint.parents[1] / NOTICES, {"text": line})
            if mirrors.of(checkpoint) is None:
                checkpoint.parent.rename(checkpoint.parent.with_name("checkpoints_of_other_ranks"))
    torch.distributed.broadcast_object_list(decision, src=0)
    follow(checkpoint, decision[0])
    return decision[0]


def _convert(checkpoint: Path) -> str:
    """Write the universal form beside the parts; the problem, empty where there is none."""
    if (checkpoint / _UNIVERSAL).is_file():
        return ""
    tag = (checkpoint / "latest").read_text(encoding="utf-8").strip()
    command = child_command("-m", "deepspeed.checkpoint.ds_to_universal")
    command += ["--input_folder", str(checkpoint / tag)]
    command += ["--output_folder", str(checkpoint / f"{tag}_universal"), "--inject_missing_state"]
    child = subprocess.run(
        command,
        capture_output=True,
        encoding="utf-8",
        stdin=subprocess.DEVNULL,
        env=child_environment() | {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""},
    )
    if child.returncode == 0:
        return ""
    lines = [line.strip() for line in child.stderr.splitlines() if line.strip()]
    return lines[-1][:200] if lines else f"exit code {child.returncode}"
