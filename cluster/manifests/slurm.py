"""A batch script for Slurm: Ray starts on the job's nodes, runs the run on the first, and ends.

Invariant: the script ends with the run's exit code. Ray's `symmetric-run` ends with 0 where Ray did
not start, so the script asks whether the driver ever did.
"""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.manifests.shape import Node, Shape, shape_of
from cluster.submission import job_id
from r2v_dist.config.run import RunConfig
from r2v_dist.config.simulated import SimulatedConfig


@dataclass(frozen=True)
class Batch:
    """What the configuration of a run does not say."""

    node: Node
    hours: float
    notice_s: int
    """Seconds between the warning and the end of the time limit."""
    restarts: int
    """Most times that the script puts itself back into the queue."""
    options: Sequence[str] = ()
    """Further options of sbatch, for example --partition=gpu."""


def sbatch_script(
    config: RunConfig | SimulatedConfig, file: Path, overrides: Sequence[str], batch: Batch
) -> str:
    """The script, for `sbatch`. It names the configuration's file, which all nodes see."""
    shape = shape_of(config, batch.node)
    run_overrides = [
        override for override in overrides if not override.startswith("cluster.address=")
    ]
    command = shlex.join(["run", str(file.resolve()), *run_overrides])
    return _SCRIPT.format(
        options="\n".join(f"#SBATCH {option}" for option in _options(config, shape, batch)),
        bin=shlex.quote(str(Path(sys.executable).parent)),
        wait_s=600,
        nodes=_nodes(shape),
        gpus=" --num-gpus=" + str(shape.gpus) if shape.gpu_nodes else "",
        run=command,
        restarts=batch.restarts,
    )


def _options(config: RunConfig | SimulatedConfig, shape: Shape, batch: Batch) -> list[str]:
    """Whole nodes: at its end Ray ends every Ray process of the user on them."""
    minutes = max(1, round(batch.hours * 60))
    options = [
        f"--job-name={job_id(config)}",
        f"--nodes={_nodes(shape)}",
        "--ntasks-per-node=1",
        f"--cpus-per-task={batch.node.cpus}",
        "--exclusive",
        f"--time={minutes}",
        "--requeue",
        "--open-mode=append",
        f"--signal=B:TERM@{batch.notice_s}",
    ]
    if shape.gpu_nodes:
        options.append(f"--gpus-per-node={shape.gpus}")
    return [*options, *batch.options]


def _nodes(shape: Shape) -> int:
    """Slurm's nodes are alike, so runners find their cores beside the GPUs."""
    return max(shape.gpu_nodes, shape.cpu_nodes, 1)


_SCRIPT = """\
#!/bin/bash
{options}

export PATH={bin}:$PATH
# Nodes start at different times; Ray's own limit is 30 s.
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT={wait_s}
# The first node of the job is where this script runs, and where Ray's head will be. Set
# R2V_HEAD_IP where the other nodes know this one by another of its addresses.
address=${{R2V_HEAD_IP:-$(hostname -I | cut -d' ' -f1)}}:$((20000 + SLURM_JOB_ID % 20000))
state=$(mktemp -d)
trap 'rm -rf "$state"' EXIT

# The driver ends in an orderly way; what it has committed is found again by the next attempt. There
# is none after `scancel`, which sends the same signal to a job that no longer counts as running.
again=
notice() {{
    if [ "$(squeue --noheader --job "$SLURM_JOB_ID" --format %T)" = RUNNING ]; then again=1; fi
    # Before Ray has started there is no driver.
    if [ -s "$state/driver" ]; then kill -TERM "$(cat "$state/driver")"; else kill -TERM "$step"; fi
}}
trap notice TERM

srun --cpus-per-task="$SLURM_CPUS_PER_TASK" \\
    ray symmetric-run --address "$address" --min-nodes {nodes} \\
    --num-cpus="$SLURM_CPUS_PER_TASK"{gpus} --disable-usage-stats -- \\
    bash -c 'echo $$ >"$0"; exec "$@"' "$state/driver" \\
    r2v {run} cluster.address="$address" &
step=$!
wait "$step"
code=$?
while kill -0 "$step" 2>/dev/null; do
    wait "$step"
    code=$?
done

if [ -n "$again" ] && [ "$code" -ne 0 ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {restarts} ]; then
    scontrol requeue "$SLURM_JOB_ID"
    exit "$code"
fi
if [ ! -s "$state/driver" ]; then
    echo "r2v: Ray did not start on the nodes of this job" >&2
    exit 1
fi
exit "$code"
"""
