"""Families about processes and services on the loopback interface, which run on when the task is
judged.
"""

import random

from envs.terminal_bench.own.drawing import name, names, sentence
from envs.terminal_bench.own.family import Family, Made

_FETCH = """
import time, urllib.request
def fetch(address):
    for attempt in range(20):
        try:
            return urllib.request.urlopen(address, timeout=5).read().decode()
        except OSError:
            time.sleep(0.1)
    fail(address + " does not answer")
"""
WAIT_FOR_PORT = (
    "for n in $(seq 50); do\n"
    "  python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", {port}))' 2> /dev/null "
    "&& break\n"
    "  sleep 0.1\ndone"
)

_SERVER = (
    "import http.server, json, sys\n"
    "with open('/app/etc/server.json') as file:\n    config = json.load(file)\n"
    "class Handler(http.server.BaseHTTPRequestHandler):\n"
    "    def do_GET(self):\n"
    "        body = config['greeting'].encode()\n"
    "        self.send_response(200)\n        self.end_headers()\n"
    "        self.wfile.write(body)\n"
    "    def log_message(self, *words):\n"
    "        with open(config['log'], 'a') as file:\n"
    "            file.write(self.path + '\\n')\n"
    "http.server.HTTPServer(('127.0.0.1', config['port']), Handler).serve_forever()\n"
)


def _serve_folder(rng: random.Random) -> Made:
    port = rng.randint(20000, 40000)
    folder, page = names(rng, 2)
    text = sentence(rng, 5)
    return Made(
        instruction=f"Serve the folder /app/{folder} over HTTP on 127.0.0.1, port {port}, in the "
        f"background, so that it goes on after you have finished. Its log goes to /app/server.log "
        f"and its process id to /app/server.pid. Add a file /app/{folder}/status.txt that says "
        f"ready.",
        files={f"{folder}/{page}.html": text + "\n", "private.txt": "private\n"},
        oracle=(
            f"ls /app/{folder}",
            f"echo ready > /app/{folder}/status.txt",
            f"cd /app/{folder} && nohup python3 -m http.server {port} --bind 127.0.0.1 "
            f"> /app/server.log 2>&1 &\n"
            "echo $! > /app/server.pid",
            WAIT_FOR_PORT.format(port=port),
            f"python3 -c 'import urllib.request; "
            f'print(urllib.request.urlopen("http://127.0.0.1:{port}/status.txt").read()'
            f".decode())'",
        ),
        wrong=(
            f"echo ready > /app/{folder}/status.txt",
            f"cd /app && nohup python3 -m http.server {port} --bind 127.0.0.1 "
            f"> /app/server.log 2>&1 &\n"
            "echo $! > /app/server.pid",
            WAIT_FOR_PORT.format(port=port),
        ),
        service=True,
        check=_check_served(port, page, text),
    )


def _check_served(port: int, page: str, text: str) -> str:
    return (
        _FETCH
        + f"""
demand(
    fetch("http://127.0.0.1:{port}/status.txt").strip() == "ready",
    "status.txt says something else",
)
demand(fetch("http://127.0.0.1:{port}/{page}.html").strip() == {text!r}, "another page")
try:
    fetched = urllib.request.urlopen("http://127.0.0.1:{port}/private.txt", timeout=5).status
except urllib.error.HTTPError as error:
    fetched = error.code
demand(fetched == 404, "a file outside of the folder is served")
number = text("/app/server.pid").strip()
demand(number.isdigit() and os.path.isdir("/proc/" + number), "server.pid names no process")
demand(os.path.exists("/app/server.log"), "there is no log")
"""
    )


def _repair_server(rng: random.Random) -> Made:
    port, wrong_port = rng.sample(range(20000, 40000), 2)
    greeting = name(rng)
    return Made(
        instruction=f"Start /app/server.py in the background so that http://127.0.0.1:{port}/ "
        f"answers with {greeting!r}, and goes on after you have finished. Its settings are in "
        f"/app/etc/server.json and are wrong; do not change server.py. Requests must be logged to "
        f"/app/var/requests.log.",
        files={
            "server.py": _SERVER,
            "etc/server.json": f'{{"port": "{wrong_port}", "greeting": "hello", "log": '
            f'"/app/logs/requests.log"}}\n',
        },
        oracle=(
            "cat /app/etc/server.json && head -n 5 /app/server.py",
            f'sed -i -e \'s/"{wrong_port}"/{port}/\' -e \'s/"hello"/"{greeting}"/\' '
            f"/app/etc/server.json",
            "sed -i 's|/app/logs/|/app/var/|' /app/etc/server.json",
            "mkdir -p /app/var",
            "nohup python3 /app/server.py > /app/server.out 2>&1 &",
            WAIT_FOR_PORT.format(port=port),
        ),
        wrong=(
            f'sed -i -e \'s/"{wrong_port}"/{port}/\' -e \'s/"hello"/"{greeting}"/\' '
            f"/app/etc/server.json",
            "nohup python3 /app/server.py > /app/server.out 2>&1 &",
            WAIT_FOR_PORT.format(port=port),
        ),
        service=True,
        check=_check_server(port, greeting),
    )


def _check_server(port: int, greeting: str) -> str:
    return (
        _FETCH
        + f"""
demand(fetch("http://127.0.0.1:{port}/check").strip() == {greeting!r}, "another greeting")
time.sleep(0.2)
demand("/check" in text("/app/var/requests.log"), "requests are not logged")
demand(text("/app/server.py") == {_SERVER!r}, "server.py was changed")
"""
    )


def _queue_worker(rng: random.Random) -> Made:
    folder = names(rng, 1)[0]
    jobs = names(rng, rng.randint(3, 5))
    files = {
        f"{folder}/in/{job}.job": f"{rng.randint(2, 99)} {rng.randint(2, 99)}\n" for job in jobs
    }
    return Made(
        instruction=f"Write /app/worker.sh and leave it running in the background. Every file "
        f"/app/{folder}/in/NAME.job holds two whole numbers; "
        f"for each the worker writes their product "
        f"to /app/{folder}/out/NAME.result and then removes the job. It must also take jobs that "
        f"come later, within two seconds. Its process id is in /app/worker.pid.",
        files=files,
        oracle=(
            f"head -n 1 /app/{folder}/in/*.job",
            "cat > /app/worker.sh <<'END'\n#!/bin/bash\n"
            f"mkdir -p /app/{folder}/out\n"
            "while true; do\n"
            f"  for job in /app/{folder}/in/*.job; do\n"
            '    [ -e "$job" ] || continue\n'
            '    read -r a b < "$job" || continue\n'
            f'    base=$(basename "$job" .job)\n'
            f'    echo $((a * b)) > "/app/{folder}/out/$base.tmp"\n'
            f'    mv "/app/{folder}/out/$base.tmp" "/app/{folder}/out/$base.result"\n'
            '    rm "$job"\n  done\n  sleep 0.2\ndone\nEND',
            "chmod +x /app/worker.sh",
            "nohup /app/worker.sh > /dev/null 2>&1 &\necho $! > /app/worker.pid",
            # Of a pattern, a job that goes between the listing and the look would end the wait.
            f'for n in $(seq 50); do [ -n "$(ls /app/{folder}/in)" ] || break; sleep 0.1; done',
            f"ls /app/{folder}/out | grep -c result",
        ),
        wrong=(
            f"mkdir -p /app/{folder}/out",
            f"for job in /app/{folder}/in/*.job; do read -r a b < $job; "
            f"echo $((a * b)) > /app/{folder}/out/$(basename $job .job).result; rm $job; done",
            "echo $$ > /app/worker.pid; touch /app/worker.sh",
        ),
        service=True,
        check=_check_worker(folder, files),
    )


def _check_worker(folder: str, files: dict[str, str]) -> str:
    return f"""
import time
for path, content in {files!r}.items():
    a, b = map(int, content.split())
    same("/app/" + path.replace("/in/", "/out/").replace(".job", ".result"), str(a * b))
    demand(not os.path.exists("/app/" + path), path + " is still there")
with open("/app/{folder}/in/late.job", "w") as file:
    file.write("12 13\\n")
for attempt in range(40):
    if os.path.exists("/app/{folder}/out/late.result"):
        break
    time.sleep(0.1)
same("/app/{folder}/out/late.result", "156")
number = text("/app/worker.pid").strip()
demand(number.isdigit() and os.path.isdir("/proc/" + number), "worker.pid names no process")
"""


def _stop_stray(rng: random.Random) -> Made:
    good, stray = names(rng, 2)
    loop = "#!/bin/bash\nwhile true; do echo tick >> /app/{name}.log; sleep 0.2; done\n"
    return Made(
        instruction=f"Run `bash /app/start.sh`. It starts two programs in the background, "
        f"{good}.sh and {stray}.sh. Then stop {stray}.sh and let {good}.sh go on. Truncate "
        f"/app/{stray}.log to zero bytes and write the process id of {good}.sh to /app/{good}.pid.",
        files={
            f"{good}.sh": loop.format(name=good),
            f"{stray}.sh": loop.format(name=stray),
            "start.sh": f"for one in {good} {stray}; do nohup bash /app/$one.sh "
            f"> /dev/null 2>&1 & done\n",
        },
        oracle=(
            "cat /app/start.sh",
            "bash /app/start.sh; sleep 0.3",
            "pid_of() {\n  for p in /proc/[0-9]*; do\n"
            "    { command=$(tr '\\0' ' ' < $p/cmdline); } 2> /dev/null\n"
            '    if [ "$command" = "bash /app/$1.sh " ]; then basename $p; fi\n  done\n}\n'
            "type pid_of | head -n 1",
            f"kill $(pid_of {stray}); sleep 0.3",
            f": > /app/{stray}.log",
            f"pid_of {good} > /app/{good}.pid && wc -l < /app/{good}.pid",
        ),
        wrong=(
            "bash /app/start.sh; sleep 0.3",
            f": > /app/{stray}.log; echo 1 > /app/{good}.pid",
        ),
        service=True,
        check=_check_stray(good, stray),
    )


def _check_stray(good: str, stray: str) -> str:
    return f"""
import time
number = text("/app/{good}.pid").strip()
demand(number.isdigit(), "{good}.pid holds no process id")
try:
    with open("/proc/" + number + "/cmdline") as file:
        demand("{good}.sh" in file.read(), "{good}.pid names another process")
except OSError:
    fail("{good}.sh does not run")
before = len(text("/app/{good}.log"))
time.sleep(0.7)
demand(len(text("/app/{good}.log")) > before, "{good}.sh does not go on")
demand(os.path.getsize("/app/{stray}.log") == 0, "{stray}.log is not empty, or {stray}.sh goes on")
"""


FAMILIES = (
    Family("serve-folder", "services", "medium", "train", _serve_folder),
    Family("repair-server", "services", "hard", "calibration", _repair_server),
    Family("queue-worker", "services", "hard", "test", _queue_worker),
    Family("stop-stray", "processes", "medium", "validation", _stop_stray),
)
