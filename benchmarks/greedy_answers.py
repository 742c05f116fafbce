"""One greedy answer of a configuration's model to every task of a data set: SLM-only and
teacher-only where nothing is sampled, perturbed or asked twice.

    R2V_DATA_DIR=... python -m benchmarks.greedy_answers CONFIG ROLE OUT.jsonl [key=value ...]

The prompt is the one that an episode begins with. The file is what `benchmarks.real_answers` reads.
Invariant: a file that exists holds an answer to every task.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any, get_args

from transformers import AutoTokenizer

from benchmarks.offline import OfflineEngine
from envs.coding.benchmark_files import Dataset
from envs.coding.env import CodeEnv
from envs.coding.splits import data_dir_of
from envs.coding.tasks import task_ids
from r2v_dist.chat import ChatFormat, opening_message
from r2v_dist.config.models import ModelConfig
from r2v_dist.config.run import RunConfig, load_config
from r2v_dist.files import write_atomically
from r2v_dist.pretrained.places import model_path


def opening(config: RunConfig, task: str) -> str:
    """The first message of an episode of this task."""
    env = CodeEnv(task, data_dir=data_dir_of(config.env), protocol=config.env.code.protocol)
    observation, info = env.reset()
    env.close()
    return opening_message(info["goal"], observation)


def answers(config: RunConfig, model: ModelConfig, tasks: list[str]) -> list[str]:
    """The text of one answer a task. Starts an engine and ends it."""
    path = model_path(model.model, "model").resolve()
    tokenizer: Any = AutoTokenizer.from_pretrained(path)
    chat = ChatFormat(tokenizer, "slm", model.system_prompt, model.chat_template_kwargs)
    end = chat.end_of_turn()
    sampling = {"temperature": 0.0, "max_tokens": model.sampling.max_tokens, "stop_token_ids": end}
    requests = [
        {"prompt_ids": chat.prompt((), opening(config, task)), "sampling": sampling}
        for task in tasks
    ]
    with tempfile.TemporaryDirectory() as folder, OfflineEngine(path, model) as engine:
        asked = Path(folder) / "requests.json"
        asked.write_text(json.dumps(requests), encoding="utf-8")
        seconds, token_ids = engine.generate(asked)
    written = [candidates[0] for candidates in token_ids]
    cut = sum(not set(ids[-1:]) & set(end) for ids in written)
    tokens = sum(map(len, written))
    print(f"{len(tasks)} answers, {tokens} tokens in {seconds:.0f} s; {cut} were cut off")
    return [tokenizer.decode(ids, skip_special_tokens=True) for ids in written]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("role", choices=["slm", "teacher"])
    parser.add_argument("out", type=Path)
    parser.add_argument("--dataset", choices=get_args(Dataset), default="humaneval_plus")
    parser.add_argument("overrides", nargs="*", help="key=value, as for `r2v run`")
    args = parser.parse_args()
    config = load_config(args.config, args.overrides)
    tasks = task_ids(args.dataset, data_dir_of(config.env))
    given = answers(config, config.slm if args.role == "slm" else config.teacher, tasks)
    lines = [
        json.dumps({"task_id": task, "answer": answer})
        for task, answer in zip(tasks, given, strict=True)
    ]
    write_atomically(args.out, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
