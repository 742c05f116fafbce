"""Raw offline vLLM in a process of its own: an engine with the server's settings that does nothing
but generate.

One JSON line in, one out. The engine idles between lines, and its prefix cache is empty before
every run.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from actors.vllm.engine import engine_arguments, engine_place
from benchmarks.harness import worker_niceness
from cluster.environment import of_engine
from r2v_dist.config.models import ModelConfig
from r2v_dist.errors import RuntimeFailure

STOP_DEADLINE_S = 30.0


class OfflineEngine:
    """Starts the process; `generate` answers with seconds and token ids. Ends with the `with`
    block.
    """

    def __init__(self, path: Path, config: ModelConfig) -> None:
        import torch

        variables = of_engine(torch.cuda.is_available())
        environment = {**os.environ, **variables, "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.offline"]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            encoding="utf-8",
        )
        self._ask({"path": str(path), "config": config.model_dump(mode="json")})

    def __enter__(self) -> "OfflineEngine":
        return self

    def __exit__(self, *_: object) -> None:
        # At the end of its input the process ends by itself; an engine that does not must not keep
        # the benchmark from ending.
        try:
            self._process.communicate(timeout=STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.terminate()
            self._process.wait()

    def generate(self, requests: Path) -> tuple[float, list[list[list[int]]]]:
        """Seconds for all requests of a JSON file in one call, and each answer: the token ids of
        its candidates.
        """
        answer = self._ask({"requests": str(requests)})
        return answer["seconds"], answer["token_ids"]

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeFailure("the offline engine ended; its own message is above")
        answer: dict[str, Any] = json.loads(line)
        return answer


def _build(message: dict[str, Any]) -> Any:
    from vllm import LLM

    config = ModelConfig.model_validate(message["config"])
    with engine_place(config):
        return LLM(**engine_arguments(config, message["path"]))


def _generate(engine: Any, requests: list[dict[str, Any]]) -> dict[str, Any]:
    from vllm import SamplingParams
    from vllm.inputs import TokensPrompt

    engine.reset_prefix_cache()
    started = time.perf_counter()
    prompts = [TokensPrompt(prompt_token_ids=request["prompt_ids"]) for request in requests]
    params = [SamplingParams(**request["sampling"], detokenize=False) for request in requests]
    outputs = engine.generate(prompts, params, use_tqdm=False)
    seconds = time.perf_counter() - started
    token_ids = []
    for output in outputs:
        token_ids.append([list(candidate.token_ids) for candidate in output.outputs])
    return {"seconds": seconds, "token_ids": token_ids}


def _serve() -> None:
    # On a busy machine the reference must not be served before Ray's workers.
    os.nice(worker_niceness())
    # Libraries print; the parent reads answers from the real stdout.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    engine: Any = None
    for line in sys.stdin:
        message = json.loads(line)
        if engine is None:
            engine = _build(message)
            answer = {"ready": True}
        else:
            requests = json.loads(Path(message["requests"]).read_text(encoding="utf-8"))
            answer = _generate(engine, requests)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    _serve()
