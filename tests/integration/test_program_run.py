"""A whole run on an agent program nobody changed: labels by replays of the program, a trained
router, its certificate and a live evaluation; and the same program afterwards behind `r2v serve`.
The models are a STUB endpoint.
"""

import asyncio
import json
import random
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from r2v_dist.storage import rollouts as rollout_store
from tests.integration.test_serve_command import serving
from tests.runs import finish

pytestmark = pytest.mark.slow
AGENT = """
import json, os, sys, urllib.request
messages = [{"role": "user", "content": "Goal: open the door\\nround 0, the door is heavy"}]
opened = 0
for number in range(6):
    told = {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"],
            "content-type": "application/json"}
    body = json.dumps({"model": "r2v", "messages": messages}).encode()
    where = os.environ["OPENAI_BASE_URL"] + "/chat/completions"
    answer = json.load(urllib.request.urlopen(urllib.request.Request(where, body, told)))
    said = answer["choices"][0]["message"]["content"]
    opened += said == "open"
    seen = "fine" if said == "open" else "error: nothing happens"
    messages += [{"role": "assistant", "content": said},
                 {"role": "user", "content": f"round {number + 1}: {seen}"}]
    if opened >= 3:
        sys.exit(0)
sys.exit(1)
"""


class Stub(BaseHTTPRequestHandler):
    """`weak` says the right word half the time, `strong` always."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        rng = random.Random(str(body["messages"]) + str(body.get("seed")))
        right = body["model"] == "strong"
        texts = [
            "open" if right or rng.random() < 0.5 else "push" for _ in range(body.get("n") or 1)
        ]
        choices = [
            {"index": n, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            for n, text in enumerate(texts)
        ]
        usage = {"prompt_tokens": len(str(body["messages"])) // 4, "completion_tokens": 1}
        raw = json.dumps({"id": "stub", "choices": choices, "usage": usage}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)


@contextmanager
def stub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Stub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()


def test_a_router_is_trained_on_a_program_and_served_to_it(tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text(AGENT, encoding="utf-8")
    rows = [
        {"id": f"door-{n}", "command": [sys.executable, "{folder}/agent.py", str(n)]}
        for n in range(13)
    ]
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    config = tmp_path / "run.yaml"
    with stub() as url:
        config.write_text(
            f"""
name: doors
env:
  kind: program
  max_steps: 6
  program: {{tasks: {tasks}}}
  splits: {{train: 4, validation: 3, calibration: 3, test: 3}}
perturb: {{train_seeds: 10, validation_seeds: 10, test_seeds: 2}}
slm: {{backend: openai, model: weak, base_url: "{url}", sampling: {{candidates: 3}}}}
teacher: {{backend: openai, model: strong, base_url: "{url}"}}
labels: {{tasks: 4, validation_tasks: 3, rounds: 1, states: 16, validation_states: 12, n: 2}}
router: {{epsilon: 0.05, score: value, risk_steps: 60, policy_steps: 60}}
evaluate: {{rates: [0.3], routers: [random, r2v], bootstrap: 200}}
cluster: {{executor: inline, in_flight: 16}}
""",
            encoding="utf-8",
        )
        run = tmp_path / "run"
        assert "r2v" in finish([str(config)], run, 1500)
        table = rollout_store.read(run / "rollouts" / "evaluate", ["actor", "drift", "stop_reason"])
        assert {"slm", "teacher"} <= set(table["actor"].to_pylist())
        assert not any(table["drift"].to_pylist())

        async def served() -> None:
            async with serving(run) as (address, _):
                process = await asyncio.create_subprocess_exec(
                    sys.executable, str(tmp_path / "agent.py"),
                    env={"OPENAI_BASE_URL": f"{address}/v1", "OPENAI_API_KEY": "any"},
                )  # fmt: skip
                assert await asyncio.wait_for(process.wait(), 60) in (0, 1)
                await asyncio.sleep(1)

        asyncio.run(served())
        assert list((run / "gateway" / "requests").glob("*.arrows"))
