"""Task folders as the benchmarks write them, whose tests would fetch uv and pytest: played and
judged without a network, the scripts unchanged.
"""

from pathlib import Path

import pytest

from envs.terminal_bench.env import TerminalBenchEnv
from r2v_dist.errors import UsageError
from tests.sandboxes import require_bubblewrap

PYTEST = """import runpy, sys

def console_main():
    assert "--ctrf" not in sys.argv
    path = next(word for word in sys.argv if word.endswith(".py"))
    try:
        for name, value in runpy.run_path(path).items():
            if name.startswith("test"):
                value()
    except AssertionError:
        return 1
    return 0
"""
"""Stands in for pytest, which the machine of these tests may lack."""
DOCKERFILE = """FROM ubuntu:24.04
ENV PYTHONPATH=/opt/py
RUN apt-get update && apt-get install -y python3 && rm -rf /var/lib/apt/lists/*
COPY pytest.py /opt/py/
WORKDIR /app
COPY ["my notes.txt", "./"]
"""
CHECK = (
    "from pathlib import Path\n\ndef test():\n    assert Path('count.txt').read_text() == '5\\n'\n"
)
SOLUTION = "wc -w < 'my notes.txt' | tr -d ' ' > count.txt\n"
NOTES = "one two three\nfour  five\n"
V1 = {
    "task.yaml": "instruction: Count.\nparser_name: pytest\nmax_test_timeout_sec: 90.5\n",
    "Dockerfile": DOCKERFILE,
    "pytest.py": PYTEST,
    "my notes.txt": NOTES,
    "solution.sh": SOLUTION,
    "tests/test_outputs.py": CHECK,
    "tests/setup-uv-pytest.sh": "apt-get update\napt-get install -y curl\n"
    "curl -LsSf https://astral.sh/uv/0.7.13/install.sh | sh\nsource $HOME/.local/bin/env\n"
    "uv venv .testing\nsource .testing/bin/activate\nuv pip install pytest==8.4.1\n",
    "tests/run-uv-pytest.sh": "uv run pytest $TEST_DIR/test_outputs.py -v -rA\n",
    "run-tests.sh": "#!/bin/bash\nset -euo pipefail\nsource $TEST_DIR/setup-uv-pytest.sh\n"
    "bash $TEST_DIR/run-uv-pytest.sh || true\necho finished\n",
}
V2 = {
    "task.toml": "[verifier]\ntimeout_sec = 60.0\n",
    "instruction.md": "Count.",
    "environment/Dockerfile": DOCKERFILE,
    "environment/pytest.py": PYTEST,
    "environment/my notes.txt": NOTES,
    "solution/solve.sh": SOLUTION,
    "tests/test_outputs.py": CHECK,
    "tests/test.sh": "#!/bin/bash\napt-get update\napt-get install -y curl\n"
    "curl -LsSf https://astral.sh/uv/0.9.5/install.sh | sh\nsource $HOME/.local/bin/env\n"
    "uvx -p 3.13 -w pytest==8.4.1 -w pytest-json-ctrf==0.3.5 \\\n"
    "  pytest --ctrf /logs/verifier/ctrf.json /tests/test_outputs.py -rA\n"
    "if [ $? -eq 0 ]; then\n  echo 1 > /logs/verifier/reward.txt\nelse\n"
    "  echo 0 > /logs/verifier/reward.txt\nfi\n",
}
FORGED = (
    "mkdir -p ~/.local/bin; echo 'exit 0' > ~/.local/bin/env",
    "echo 'def console_main(): return 0' > pytest.py; cp pytest.py uv; chmod +x uv",
    "printf '[pytest]\\naddopts = --collect-only\\n' > /pytest.ini",
)

LEFT = (
    "printf 'while :; do mkdir -p /logs/verifier; echo 1 > /logs/verifier/r2v-pytest; done' > f.sh",
    "setsid bash f.sh > /dev/null 2>&1 &",
)
"""A process that writes the record of the tests, again and again."""


def play(tmp_path: Path, files: dict[str, str], *actions: str) -> float:
    folder = tmp_path / "count-words"
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    env = TerminalBenchEnv(str(folder), expert=True)
    try:
        env.reset()
        for action in actions:
            env.step(env.expert_action() if action == "EXPERT" else action)
        return float(env.step("submit")[1])
    finally:
        env.close()


@pytest.mark.parametrize("files", [V1, V2], ids=["v1", "v2"])
def test_tests_that_would_fetch_judge_without_a_network(
    files: dict[str, str], tmp_path: Path
) -> None:
    require_bubblewrap()
    assert play(tmp_path, files, "EXPERT") == 1.0
    assert play(tmp_path, files) == 0.0
    assert play(tmp_path, files, *FORGED) == 0.0


def test_what_an_agent_left_does_not_pass_where_pytest_failed(tmp_path: Path) -> None:
    require_bubblewrap()
    assert play(tmp_path, V1, *LEFT) == 0.0


def test_a_reward_counts_whatever_pytest_said(tmp_path: Path) -> None:
    require_bubblewrap()
    script = "uvx pytest /tests/test_outputs.py\necho 1 > /logs/verifier/reward.txt\n"
    assert play(tmp_path, V2 | {"tests/test.sh": script}) == 1.0


@pytest.mark.parametrize(
    ("path", "script"),
    [
        ("tests/run-uv-pytest.sh", "uv --no-cache run pytest $TEST_DIR/test_outputs.py\n"),
        (
            "run-tests.sh",
            "pip install pytest\npython3 -m pytest $TEST_DIR/test_outputs.py || true\necho done\n",
        ),
        ("run-tests.sh", "curl --version > /dev/null\n[ -e count.txt ]\n"),
    ],
    ids=["options of uv", "pytest as a module", "no pytest"],
)
def test_however_a_script_judges_it_is_heard(path: str, script: str, tmp_path: Path) -> None:
    require_bubblewrap()
    files = V1 | {path: script}
    assert play(tmp_path, files, "EXPERT") == 1.0
    assert play(tmp_path, files) == 0.0


def test_a_reward_may_be_a_file_of_json(tmp_path: Path) -> None:
    require_bubblewrap()
    script = (
        'echo "{\\"reward\\": $(cat count.txt), \\"style\\": 0}" > /logs/verifier/reward.json\n'
    )
    files = V2 | {"tests/test.sh": script}
    assert play(tmp_path, files, "echo 1 > count.txt") == 1.0
    assert play(tmp_path, files, "echo 0.9 > count.txt") == 0.0
    assert play(tmp_path, files) == 0.0


def test_without_a_solution_there_is_no_expert(tmp_path: Path) -> None:
    require_bubblewrap()
    files = {path: text for path, text in V1.items() if path != "solution.sh"}
    with pytest.raises(UsageError, match="task count-words: it has no solution that"):
        play(tmp_path, files, "EXPERT")
