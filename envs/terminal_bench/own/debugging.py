"""Families about programs that do not do what they should."""

import random

from envs.terminal_bench.own.drawing import NOUNS, name, names
from envs.terminal_bench.own.family import Family, Made


def _shell_bug(rng: random.Random) -> Made:
    tool = names(rng, 1)[0]
    limit = rng.randint(20, 60)
    script = (
        "#!/bin/bash\n# prints how many of the files it is given have more than LIMIT bytes\n"
        f"LIMIT={limit}\ncount=0\nfor file in $@; do\n"
        "  size=$(wc -c < $file)\n  if [ $size > $LIMIT ]; then\n    count=$((count + 1))\n  fi\n"
        "done\n"
        "echo $count\n"
    )
    return Made(
        instruction=f"/app/{tool}.sh should print how many of the files given to it are larger "
        f"than {limit} bytes. It counts wrongly, leaves a file behind, and fails for names with "
        f"spaces. Repair it and remove what it left in /app. The limit stays {limit}.",
        files={
            f"{tool}.sh": script,
            "samples/small.txt": "x" * (limit // 2),
            "samples/large one.txt": "x" * (limit * 2),
        },
        executable=(f"{tool}.sh",),
        setup=f"bash {tool}.sh samples/small.txt > /dev/null; test -e {limit}",
        oracle=(
            f"cat /app/{tool}.sh",
            f"sed -i 's/for file in $@/for file in \"$@\"/' /app/{tool}.sh",
            f"sed -i 's/< $file)/< \"$file\")/' /app/{tool}.sh",
            f'sed -i \'s/\\[ $size > $LIMIT \\]/[ "$size" -gt "$LIMIT" ]/\' /app/{tool}.sh',
            f"rm -f /app/{limit}",
            f"/app/{tool}.sh /app/samples/*.txt",
        ),
        wrong=(
            f"sed -i 's/\\[ $size > $LIMIT \\]/[ $size -gt $LIMIT ]/' /app/{tool}.sh",
            f"/app/{tool}.sh /app/samples/small.txt",
        ),
        check=_check_counting(tool, limit),
    )


def _check_counting(tool: str, limit: int) -> str:
    return f"""
os.makedirs("/tmp/check dir", exist_ok=True)
paths = []
for number, size in enumerate((0, {limit - 1}, {limit}, {limit + 1}, {limit * 3}, 9)):
    paths.append("/tmp/check dir/a b" + str(number))
    with open(paths[-1], "w") as file:
        file.write("x" * size)
code, said = output("/app/{tool}.sh", *paths, cwd="/tmp/check dir")
demand(said.strip() == "2", "it counts wrongly")
demand(
    output("/app/{tool}.sh", cwd="/tmp/check dir")[1].strip() == "0",
    "it counts wrongly without files",
)
demand(
    sorted(os.listdir("/tmp/check dir")) == ["a b" + str(n) for n in range(6)],
    "it leaves a file behind",
)
demand(not os.path.exists("/app/{limit}"), "the file that it left is still there")
demand("LIMIT={limit}" in text("/app/{tool}.sh"), "the limit was changed")
"""


def _python_bug(rng: random.Random) -> Made:
    module = names(rng, 1)[0]
    size = rng.randint(3, 6)
    program = (
        f'"""Moving averages."""\n\n\ndef averages(values, size={size}):\n'
        '    """The mean of every `size` neighbours, rounded to one decimal."""\n'
        "    found = []\n    for start in range(len(values) - size):\n"
        "        part = values[start:start + size]\n"
        "        found.append(sum(part) // size)\n    return found\n"
    )
    repaired = program.replace("len(values) - size)", "len(values) - size + 1)").replace(
        "sum(part) // size", "round(sum(part) / size, 1)"
    )
    return Made(
        instruction=f"averages() in /app/{module}.py should return the mean of every `size` "
        f"neighbouring values, rounded to one decimal, and an empty list where there are fewer "
        f"values. It leaves out the last one and rounds wrongly. Repair it; "
        f"name, parameters and default stay. Then write averages([1, 2, 4, 8, 16, 32, 64]) to "
        f"/app/result.txt as Python prints it.",
        files={f"{module}.py": program},
        oracle=(
            f"cat /app/{module}.py",
            f"sed -i 's/len(values) - size)/len(values) - size + 1)/' /app/{module}.py",
            f"sed -i 's#sum(part) // size#round(sum(part) / size, 1)#' /app/{module}.py",
            f"cd /app && python3 -c 'from {module} import averages; "
            f"print(averages([1, 2, 4, 8, 16, 32, 64]))' "
            "> /app/result.txt",
            "cat /app/result.txt",
        ),
        wrong=(
            f"sed -i 's#sum(part) // size#sum(part) / size#' /app/{module}.py",
            f"cd /app && python3 -c 'from {module} import averages; "
            f"print(averages([1, 2, 4, 8, 16, 32, 64]))' "
            "> /app/result.txt",
        ),
        check=_check_averages(module, repaired),
    )


def _check_averages(module: str, repaired: str) -> str:
    return f"""
wanted = {{}}
exec({repaired!r}, wanted)
found = {{}}
try:
    exec(text("/app/{module}.py"), found)
    powers = [1, 2, 4, 8, 16, 32, 64]
    for values in ([], [1], powers, list(range(0, 90, 7)), [0.05] * 9, [-3, 5, 9, 2, 2, 8]):
        demand(
            found["averages"](values) == wanted["averages"](values),
            "averages() returns something else",
        )
        demand(
            found["averages"](values, size=2) == wanted["averages"](values, size=2),
            "size does not count",
        )
except Exception as error:
    fail(str(error))
same("/app/result.txt", str(wanted["averages"]([1, 2, 4, 8, 16, 32, 64])))
"""


def _bad_records(rng: random.Random) -> Made:
    rows = []
    bad = []
    total = 0
    for number in range(rng.randint(25, 40)):
        amount = rng.randint(1, 500)
        rows.append(f"{number + 1},{rng.choice(NOUNS)},{amount}")
        total += amount
    for value in ("x7", "", "12.5.1"):
        place = rng.randint(0, len(rows))
        bad.append(f"{rng.randint(100, 999)},{rng.choice(NOUNS)},{value}")
        rows.insert(place, bad[-1])
    bad = [row for row in rows if row in bad]
    program = (
        "import csv, sys\n\ntotal = 0\nwith open('/app/data.csv') as file:\n"
        "    for row in csv.reader(file):\n        total += int(row[2])\nprint(total)\n"
    )
    return Made(
        instruction="`python3 /app/add.py` fails on /app/data.csv, as some lines have no whole "
        "number in the third column. Move these lines to /app/rejected.csv, in their order, so "
        "that the program works on what is left; do not change the program. Write its result to "
        "/app/total.txt.",
        files={"data.csv": "\n".join(rows) + "\n", "add.py": program},
        oracle=(
            "python3 /app/add.py 2>&1 | tail -n 1",
            "grep -vE ',[0-9]+$' /app/data.csv > /app/rejected.csv",
            "grep -E ',[0-9]+$' /app/data.csv > /tmp/good",
            "cp /tmp/good /app/data.csv",
            "python3 /app/add.py > /app/total.txt && cat /app/total.txt",
        ),
        wrong=(
            "grep -E 'x7|,$' /app/data.csv > /app/rejected.csv",
            "grep -vE 'x7|,$' /app/data.csv > /tmp/good && cp /tmp/good /app/data.csv",
            "python3 /app/add.py > /app/total.txt 2> /dev/null",
        ),
        check=_check_rejected(rows, bad, total, program),
    )


def _check_rejected(rows: list[str], bad: list[str], total: int, program: str) -> str:
    return f"""
same("/app/rejected.csv", {chr(10).join(bad)!r})
same("/app/total.txt", "{total}")
same("/app/data.csv", {chr(10).join(row for row in rows if row not in bad)!r})
demand(text("/app/add.py") == {program!r}, "the program was changed")
"""


def _tool(variable: str) -> str:
    """A command that needs a variable, a configuration and a folder."""
    return (
        "#!/bin/bash\nset -e\n"
        f'[ -n "${variable}" ] || {{ echo "{variable} is not set" >&2; exit 2; }}\n'
        f'. "${variable}/conf/tool.conf"\n'
        f'mkdir -p "$(dirname "$CACHE")"\necho "$ANSWER" > "$CACHE"\n'
        'cat "$CACHE"\n'
    )


def _broken_environment(rng: random.Random) -> Made:
    tool = name(rng).replace("-", "_")
    variable = f"{tool.split('_')[1].upper()}_HOME"
    folder = names(rng, 1)[0]
    answer = rng.randint(1000, 9999)
    script = _tool(variable)
    return Made(
        instruction=f"The command `{tool}` (in /app/{folder}/bin) should work in every new bash "
        f"shell that reads /root/.profile, called by its name alone; "
        f"it needs {variable}=/app/{folder}. Set both up in /root/.profile, repair what else keeps "
        f"it from working without changing /app/{folder}/bin/{tool}, and write what it prints to "
        f"/app/answer.txt.",
        files={
            f"{folder}/bin/{tool}": script,
            f"{folder}/conf/tool.conf.dist": f"ANSWER={answer}\nCACHE=/app/{folder}/cache/answer\n",
            f"{folder}/cache": "a file where a folder should be\n",
        },
        oracle=(
            f"cat /app/{folder}/bin/{tool}",
            f"chmod +x /app/{folder}/bin/{tool}",
            f"cp /app/{folder}/conf/tool.conf.dist /app/{folder}/conf/tool.conf",
            f"rm -f /app/{folder}/cache/answer; [ -d /app/{folder}/cache ] || rm -f "
            f"/app/{folder}/cache",
            f"grep -q {variable} /root/.profile 2> /dev/null || cat >> /root/.profile <<'END'\n"
            f'export {variable}=/app/{folder}\nexport PATH="$PATH:/app/{folder}/bin"\nEND',
            ". /root/.profile",
            f"{tool} > /app/answer.txt && cat /app/answer.txt",
        ),
        wrong=(
            f"cp /app/{folder}/conf/tool.conf.dist /app/{folder}/conf/tool.conf; "
            f"rm -f /app/{folder}/cache",
            f"export {variable}=/app/{folder}",
            f"bash /app/{folder}/bin/{tool} > /app/answer.txt",
        ),
        check=_check_environment(tool, folder, script, answer),
    )


def _check_environment(tool: str, folder: str, script: str, answer: int) -> str:
    return f"""
same("/app/answer.txt", "{answer}")
environment = {{"PATH": "/usr/bin:/bin", "HOME": "/root"}}
code, said = output("/bin/bash", "-c", ". /root/.profile; {tool}", env=environment, cwd="/tmp")
demand(code == 0 and said.strip() == "{answer}", "a new shell cannot run it")
demand(text("/app/{folder}/bin/{tool}") == {script!r}, "the script was changed")
"""


FAMILIES = (
    Family("shell-bug", "debugging", "hard", "test", _shell_bug),
    Family("python-bug", "debugging", "medium", "train", _python_bug),
    Family("bad-records", "debugging", "medium", "train", _bad_records),
    Family("broken-environment", "debugging", "hard", "calibration", _broken_environment),
)
