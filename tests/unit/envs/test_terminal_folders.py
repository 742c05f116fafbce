"""Task folders of others: what can be played is listed so, and what cannot says why in one line."""

from pathlib import Path

import pytest

from envs.terminal_bench.dockerfile import Put, read_dockerfile
from envs.terminal_bench.installs import Installs, installs_of
from envs.terminal_bench.listing import Fit, fit_of
from envs.terminal_bench.machine import File
from envs.terminal_bench.offline import PYTEST_SAID
from envs.terminal_bench.reading import read_task
from envs.terminal_bench.task import read_folder
from r2v_dist.config.terminal import TerminalConfig

V1 = {
    "task.yaml": "instruction: Do it.\nmax_test_timeout_sec: 90.5\nparser_name: pytest\n",
    "Dockerfile": "FROM debian:12\nWORKDIR /app\n",
    "run-tests.sh": "test -e /app/one\n",
    "tests/test_outputs.py": "def test(): ...\n",
}
V2 = {
    "task.toml": "[verifier]\ntimeout_sec = 9\n",
    "instruction.md": "Do it.\n",
    "environment/Dockerfile": "FROM debian:12\nWORKDIR /app\n",
    "tests/test.sh": "echo 1 > /logs/verifier/reward.txt\n",
}
UV = """#!/bin/bash
apt-get update
apt-get install -y curl sqlite3
curl -LsSf https://astral.sh/uv/0.9.5/install.sh | sh
source $HOME/.local/bin/env
uvx \\
  -p 3.13 -w pytest==8.4.1 -w pytest-json-ctrf==0.3.5 --with 'numpy>=2' \\
  pytest --ctrf /logs/verifier/ctrf.json /tests/test_outputs.py -rA
"""


def fit(tmp_path: Path, files: dict[str, str]) -> Fit:
    folder = tmp_path / "odd"
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    return fit_of(folder, TerminalConfig())


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (
            V1 | {"task.yaml": "instruction: a\nmax_test_timeout_sec: soon\n"},
            "task odd: task.yaml: max_test_timeout_sec = soon: write a number of seconds, "
            "such as 60.0",
        ),
        (
            V1 | {"task.yaml": "instruction: a\nparser_name: swebench\n"},
            "task.yaml: parser_name = swebench: only pytest's verdict can be read",
        ),
        (V1 | {"task.yaml": "difficulty: easy\n"}, "task.yaml: instruction is missing"),
        (
            V1 | {"docker-compose.yaml": "services: 3\n"},
            "task odd: docker-compose.yaml: services = 3: write a section with keys",
        ),
        (
            V2 | {"task.toml": "metadata = 3\n"},
            "task odd: task.toml: metadata = 3: write a section with keys",
        ),
        (
            V2 | {"task.toml": "[verifier]\ntimeout_sec = -1\n"},
            "task odd: task.toml: verifier.timeout_sec = -1: write a number of seconds, such as "
            "60.0",
        ),
        (
            V2 | {"task.toml": "[[steps]]\nname = 'a'\n"},
            "task.toml: it has steps, and only tasks of one step can be played",
        ),
        (
            V2 | {"task.toml": "[agent]\nuser = 'agent'\n"},
            "task.toml: agent.user = agent: everything is done as root",
        ),
        (
            V2 | {"task.toml": "[verifier]\nenv = { KEY = '${KEY}' }\n"},
            "task.toml: verifier.env.KEY = ${KEY}: no variable of this machine goes into a "
            "terminal; write its value",
        ),
    ],
)
def test_what_keeps_a_task_from_being_played_is_one_line(
    files: dict[str, str], said: str, tmp_path: Path
) -> None:
    found = fit(tmp_path, files)
    assert found.sandbox[0] == found.docker[0] == said


def test_empty_values_are_no_values(tmp_path: Path) -> None:
    empty = {"task.yaml": "instruction: a\nmax_test_timeout_sec:\ncategory:\n"}
    found = fit(tmp_path, V1 | empty | {"docker-compose.yaml": "services:\n"})
    assert (found.sandbox, found.docker, found.category) == ((), (), "")


@pytest.mark.parametrize(
    ("files", "script"), [(V1, "run-tests.sh"), (V2, "tests/test.sh")], ids=["v1", "v2"]
)
def test_tests_that_fetch_need_what_they_would_install(
    files: dict[str, str], script: str, tmp_path: Path
) -> None:
    found = fit(tmp_path, files | {script: UV})
    assert len(found.sandbox) == 1
    assert "not in /usr: " in found.sandbox[0]
    assert "pytest, numpy; `make terminal-root`" in found.sandbox[0]
    assert "curl" not in found.sandbox[0]
    assert found.docker == (
        "its tests would fetch pytest, numpy, and a container has no network; let its Dockerfile "
        "install it",
    )


def folder(files: dict[str, str]) -> dict[str, File]:
    return {path: File(text.encode()) for path, text in files.items()}


def test_the_script_of_tests_that_fetch_is_run_as_it_is() -> None:
    first = read_task("a", folder(V1 | {"run-tests.sh": UV}))
    assert "PATH=/tests/r2v-offline:$PATH bash /tests/run-tests.sh; " in first.test_script
    assert first.tests["/tests/run-tests.sh"].content.decode() == UV
    assert first.tests["/tests/r2v-offline/uvx"].mode == 0o755
    assert (first.reward_file, first.needs_exit_0) == (PYTEST_SAID, False)
    assert first.test_s == 90.5
    second = read_task("a", folder(V2 | {"tests/test.sh": UV}))
    assert second.reward_file == "/logs/verifier/reward.txt"
    plain = read_task("a", folder(V1))
    assert (plain.test_script, plain.reward_file) == ("bash /tests/run-tests.sh", "")
    assert sorted(plain.tests) == ["/tests/run-tests.sh", "/tests/test_outputs.py"]


def test_a_pytest_that_is_called_past_ours_is_judged_by_the_script() -> None:
    for python in ("/usr/bin/python3", "python3 -B", "python3.11"):
        script = f"pip install pytest\n{python} -m pytest /tests/test_outputs.py\n"
        task = read_task("a", folder(V1 | {"run-tests.sh": script}))
        assert (task.reward_file, task.needs_exit_0) == ("", True)
    script = "pip install pytest\npython3 -m pytest /tests/test_outputs.py\n"
    task = read_task("a", folder(V1 | {"run-tests.sh": script}))
    assert (task.reward_file, task.needs_exit_0) == (PYTEST_SAID, False)


def test_an_older_solution_is_a_list_of_commands() -> None:
    step = "- command: {}\n  block: {}\n  append_enter: true\n"
    steps = step.format("cd /srv", "true") + step.format("touch 'a b'", "true")
    task = read_task("a", folder(V1 | {"solution.yaml": steps}))
    assert task.oracle == ("cd /srv", "touch 'a b'")
    typed = steps + step.format("vim a", "false")
    assert read_task("a", folder(V1 | {"solution.yaml": typed})).oracle == ()


COMPOSE = """services:
  client:
    build: {context: client}
    container_name: ${T_BENCH_NAME}
    command: [sh, -c, sleep infinity]
    environment: [API=http://api:8000, "LOGS=${T_BENCH_LOGS}"]
    volumes: ["${T_BENCH_LOGS}:/logs"]
    depends_on: {api: {condition: service_healthy}}
  api:
    build: {context: ./api, dockerfile: other}
    command: python3 -m http.server 8000
    environment: {DEBUG: 1}
    healthcheck: {test: "true", interval: 5s}
"""


def test_containers_beside_the_terminal_are_read(tmp_path: Path) -> None:
    files = {path: text for path, text in V1.items() if path != "Dockerfile"}
    files |= {"docker-compose.yaml": COMPOSE, "client/Dockerfile": V1["Dockerfile"]}
    files |= {"api/other": "FROM debian:12\n", "api/page": "x"}
    task = read_task("a", folder(files))
    assert sorted(task.context) == ["Dockerfile"]
    assert dict(task.build.environment) == {"API": "http://api:8000"}
    [api] = task.services
    assert (api.name, api.command[-1], api.aliases) == ("api", "8000", ("api",))
    assert sorted(api.context) == ["Dockerfile", "other", "page"]
    assert (dict(api.environment), api.health) == ({"DEBUG": "1"}, ("CMD-SHELL", "true"))
    found = fit(tmp_path, files)
    assert found.docker == ()
    assert found.sandbox[0].startswith("docker-compose.yaml: it has several containers")


def test_an_open_quote_in_a_command_is_told(tmp_path: Path) -> None:
    services = 'services: {client: {}, api: {image: a, command: "echo \'a"}}\n'
    found = fit(tmp_path, V1 | {"docker-compose.yaml": services})
    assert found.docker == (
        "task odd: docker-compose.yaml: services.api.command = echo 'a: a quote is open "
        "(No closing quotation); close it",
    )


@pytest.mark.parametrize(
    ("services", "said"),
    [
        ("{client: {privileged: true}}", "services.client.privileged is not understood"),
        ("{one: {image: a}}", "none of one is called client or main"),
        ("{client: {}, db: {build: db}}", "services.db: neither an image nor a Dockerfile"),
        ("{1: {image: a}}", "none of 1 is called client or main"),
        ("{client: {build: {target: a}}}", "services.client.build.target is not understood"),
        ("{client: {}}\ninclude: [more.yaml]", "include is not understood"),
        (
            "{client: {}, db: {image: 'db:${TAG}'}}",
            "services.db.image: no variable is known here; write its value",
        ),
    ],
)
def test_what_keeps_containers_from_being_started_is_named(
    services: str, said: str, tmp_path: Path
) -> None:
    found = fit(tmp_path, V1 | {"docker-compose.yaml": f"services: {services}\n"})
    assert found.docker[0] == f"docker-compose.yaml: {said}"


def test_two_dollars_in_a_compose_file_are_one() -> None:
    api = "{image: a, command: 'echo $$A', environment: ['B=$${C}'], healthcheck: {test: 'x $$D'}}"
    files = V1 | {"docker-compose.yaml": f"services: {{client: {{}}, api: {api}}}\n"}
    [service] = read_task("a", folder(files)).services
    assert service.command == ("echo", "$A")
    assert (dict(service.environment), service.health[-1]) == ({"B": "${C}"}, "x $D")


def test_a_dockerfile_lies_where_the_compose_file_says(tmp_path: Path) -> None:
    main = "services: {main: {build: {context: app}}}\n"
    files = V2 | {"environment/docker-compose.yaml": main, "environment/app/x": ""}
    assert fit(tmp_path / "a", files).docker == ("environment/Dockerfile is missing",)
    files["environment/app/Dockerfile"] = files.pop("environment/Dockerfile")
    assert fit(tmp_path / "b", files).docker == ()


@pytest.mark.parametrize(
    "text", ["a: " + "[" * 5000, "instruction: a\nmax_test_timeout_sec: 1" + "0" * 400]
)
def test_a_file_that_no_reader_bears_is_one_line(text: str, tmp_path: Path) -> None:
    [said] = fit(tmp_path, V1 | {"task.yaml": text}).docker
    assert said.startswith("task odd: task.yaml")


def test_a_link_within_a_folder_is_the_file_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "data").write_text("1", encoding="utf-8")
    (tmp_path / "link").symlink_to("real/data")
    assert read_folder(tmp_path)["link"].content == b"1"


@pytest.mark.parametrize(
    ("leads", "why"),
    [("/etc/passwd", "is a link out of it"), ("tests", "is neither"), ("gone", "is neither")],
)
def test_a_link_that_cannot_be_copied_is_one_line(leads: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "link").symlink_to(leads)
    [said] = fit(tmp_path, V1).docker
    assert f"link {why}" in said


def test_variables_of_a_task_reach_the_terminal_and_the_tests() -> None:
    described = "[environment.env]\nONE = '1'\n[verifier.env]\nTWO = '2'\n"
    task = read_task("a", folder(V2 | {"task.toml": described}))
    assert dict(task.build.environment) == {"ONE": "1"}
    assert task.test_environment == {"TWO": "2"}


@pytest.mark.parametrize(
    ("command", "installs"),
    [
        ("sudo apt-get install -y --no-install-recommends jq less=590-2", (("jq", "less"), ())),
        ("apt update", ((), ())),
        ("python3 -m pip install 'a==1' b[x]>=2 -r needs.txt", ((), ("a", "b", "needs.txt"))),
        ("uv add pytest==8.4.1 requests", ((), ("pytest", "requests"))),
        ("uv pip install --no-cache-dir pandas==2.2.3", ((), ("pandas",))),
        ("uv run --with scipy pytest -w", ((), ("scipy",))),
        ("uv init", ((), ())),
    ],
)
def test_what_a_command_would_install(
    command: str, installs: tuple[tuple[str, ...], tuple[str, ...]]
) -> None:
    assert installs_of(command) == Installs(*installs)
    assert installs_of("echo apt") is None


def test_a_dockerfiles_variables_are_replaced_as_docker_does() -> None:
    text = 'FROM debian:12\nARG NAME=box\nENV PATH="/opt/bin:$PATH" X=${NONE:-some} Y=$NONE\n'
    build = read_dockerfile(text + 'COPY ["a b.txt", "/srv/$NAME/"]\n', {"a b.txt": File(b"")})
    variables = dict(build.environment)
    assert variables["PATH"].startswith("/opt/bin:/usr/local/sbin:")
    assert (variables["X"], variables["Y"]) == ("some", "")
    assert isinstance(build.steps[-1], Put)
    assert list(build.steps[-1].files) == ["/srv/box/a b.txt"]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("FROM", "its Dockerfile has FROM without an image"),
        ("FROM debian:12\nCOPY x", "its Dockerfile has COPY x, which names no target"),
        (
            "FROM debian:12\nCOPY x /usr/bin/x",
            "its Dockerfile copies to /usr/bin/x, where nothing can be written",
        ),
        ("COPY 'x y", "its Dockerfile has COPY 'x y, in which a quote is open"),
        ("COPY --chmod=898 x y", "its Dockerfile has --chmod=898, which is no octal mode"),
        ("COPIED x", "its Dockerfile has COPIED, which only Docker can do"),
    ],
)
def test_a_dockerfile_that_cannot_be_followed_is_explained(line: str, problem: str) -> None:
    assert read_dockerfile(line, {"x": File(b"")}).problems == (problem,)
